"""Classifiers and their training: surrogates, benign models and marked models."""
