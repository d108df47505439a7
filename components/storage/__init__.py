"""An S3 object store: places, credentials, retries, and transfers whose digests are checked."""
