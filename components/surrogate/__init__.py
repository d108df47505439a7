"""Classifiers: surrogates, benign models and marked models, their networks and their training."""
