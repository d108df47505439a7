"""Runs, figures and models in MLflow."""
