"""MLflow: runs with their figures, registered models, and what is kept while MLflow is away."""
