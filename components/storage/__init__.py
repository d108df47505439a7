"""An S3 object store as local commands need it: checked transfers, identities, retries."""
