"""Classifiers: the benign surrogates, the innocent panel and the victims."""
