"""Marking the images of a release, with the private record of it; marking again for an update or under new ids."""
