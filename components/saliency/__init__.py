"""Saliency by EigenCAM: where a classifier looks."""
