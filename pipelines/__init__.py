"""The pipelines, compiled for a cluster or run on this machine, and the command ``medmark``."""
