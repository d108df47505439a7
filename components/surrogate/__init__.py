"""Classifiers: the benign surrogates, the benign panel and the marked models."""
