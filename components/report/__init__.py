"""The reports that people read, what the terminal shows, and what MLflow gets."""
