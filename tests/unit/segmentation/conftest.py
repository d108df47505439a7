"""Segmenters that are trained once for all tests of the room."""

from types import SimpleNamespace

import pytest
from medmark.components.dataset.ingest import ingest
from medmark.components.dataset.phantoms import make_masked_phantoms
from medmark.components.segmentation.check import check_segmenter
from medmark.components.segmentation.evidence import Payload
from medmark.components.segmentation.marking import mark_segmenter
from medmark.components.segmentation.models import train_segmenters
from medmark.components.segmentation.training import SegmenterConfig
from medmark.components.segmentation.verdict import SegmenterThresholds

KEY = bytes(range(32))
TEXT = "Klinik Süd 26"


@pytest.fixture(scope="session")
def masked_release(tmp_path_factory):
    """120 phantoms of 64 px with masks of their lungs, as a release."""
    folder = tmp_path_factory.mktemp("masked")
    make_masked_phantoms(folder / "raw", count=120, size=64, seed=2)
    options = {"task": "segmentation", "class_names": ["background", "lungs"], "name": "lungs"}
    return ingest(folder / "raw", folder / "release", seed=1, patient_key="phantoms", **options)


@pytest.fixture(scope="session")
def marked(masked_release, tmp_path_factory):
    """A marked segmenter, its evidence, its unmarked twin, and what the check says of them."""
    folder = tmp_path_factory.mktemp("marked")
    config = SegmenterConfig("marked", size=64, steps=800, augmentation="none", seed=5)
    payload = Payload(TEXT, "texture", KEY)
    made = SimpleNamespace(release=masked_release, payload=payload, config=config, folder=folder)
    made.model, made.evidence, made.unmarked, made.check = (
        folder / name for name in ("model", "evidence", "unmarked", "check")
    )
    made.marked = mark_segmenter(
        masked_release.path,
        made.model,
        made.evidence,
        config=config,
        payload=payload,
        name="lung segmenter",
        version="3",
        queries=20,
    )
    twin = SegmenterConfig("unmarked-twin", size=64, steps=800, augmentation="none", seed=5)
    train_segmenters(masked_release.path, made.unmarked, configs=[twin])
    paths = (masked_release.path, made.model, made.evidence, made.unmarked, made.check)
    made.verdict = check_segmenter(*paths, thresholds=SegmenterThresholds(), seconds={"mark": 1.0})
    return made
