"""The image that containerised steps run in."""

import os

# One reference for every component. A cluster pins it by digest when it compiles the pipelines, since KFP's cache key
# hashes this text: MEDMARK_IMAGE=registry/name@sha256:...
IMAGE = os.environ.get("MEDMARK_IMAGE", "medmark/python-cpu:0.1.0")
