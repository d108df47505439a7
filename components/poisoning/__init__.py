"""Marking the images of a release, and the private record of it."""
