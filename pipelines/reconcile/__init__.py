"""Make a release of every complete drop that has none, from within a cluster."""
