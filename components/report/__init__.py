"""Reports that people read, their figures, and what a run logs to MLflow."""
