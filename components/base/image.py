"""The image that containerised steps run in."""

import os

# One reference for every component. Pin it by digest when you compile, so that the lineage names what ran:
# MEDMARK_IMAGE=registry/name@sha256:... A compiled step finds it in its environment, too.
IMAGE = os.environ.get("MEDMARK_IMAGE", "medmark/python-cpu:0.1.0")
