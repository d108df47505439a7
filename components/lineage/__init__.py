"""Signed commitments to private evidence, made before a release goes out."""
