"""Releases, evidence and drops on their way to and from an object store: places, publishing, submissions."""
