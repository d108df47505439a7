"""Mark a release, from raw images to the report."""
