"""Start pipelines from CI, each at most once for the same input."""
