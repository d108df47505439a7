"""The image that containerised steps run in."""

import os

# Components name it; compiling puts the reference in its place that images/digests.yaml or --images gives.
IMAGE = "medmark/python-cpu"
NOT_IN_AN_IMAGE = "none"
RUNS_IN = "MEDMARK_IMAGE"  # variable in a compiled step's environment


def running_image() -> str:
    """Returns the reference of the image that this process runs in, as its compiled step says, or :data:`NOT_IN_AN_IMAGE`."""
    return os.environ.get(RUNS_IN, NOT_IN_AN_IMAGE)
