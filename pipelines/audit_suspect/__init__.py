"""Audit suspect models: the pipeline, and the same on this machine."""
