"""Make variants of marked images: with the wave that was published, and with others in its place.

An audit asks whether a suspect knows the published ones better, see :mod:`medmark.components.verification.variant_test`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from medmark.components.base.progress import track
from medmark.components.dataset.arrays import display_tensor, resize
from medmark.components.dataset.codecs import encode_png
from medmark.components.dataset.release import Record, Release
from medmark.components.evidence.variants import OTHERS, published_at, write_variants
from medmark.components.generator.marker import Marker
from medmark.components.saliency.extract import stack_saliency
from medmark.components.surrogate.models import load_models
from medmark.components.surrogate.networks import Classifier
from medmark.components.surrogate.training import predict_probabilities

IMAGES = 200  # at most; ours
CANDIDATES = 2_000  # of these the hardest are taken; arbitrary, for large releases
SIDE = 256  # pixels at most, whatever the image has; ours: evidence of full images would be as large as a release


def make_variants(
    source: Release,
    marker: Marker,
    saliency: dict[str, torch.Tensor],
    surrogates_dir: str | Path,
    evidence_dir: str | Path,
) -> int:
    """Writes ``variants.parquet``.

    It holds the images that benign models find hardest: what a model cannot explain by the anatomy it remembers.

    Args:
        source: the clean release.
        marker: of the mark, with the roles of the images that were changed.
        saliency: maps of the clean release.
        surrogates_dir: benign models.
        evidence_dir: gets the file. The choice among many candidates and the variants' order follow from the marker's seed.

    Returns:
        How many images it holds.
    """
    roles, seed = marker.roles, marker.seed
    surrogates = [model for _, model in load_models(surrogates_dir)]
    lots = {one: hashlib.sha256(f"{seed}:variants:{one}".encode()).digest() for one in roles}
    candidates = set(sorted(roles, key=lots.__getitem__)[:CANDIDATES])
    certainty: dict[str, float] = {}
    for record in track(source.records("train"), "looking for hard images"):
        if record.image_id in candidates:
            certainty[record.image_id] = _certainty(record, surrogates)
    hardest = set(sorted(certainty, key=lambda one: (certainty[one], one))[:IMAGES])
    rows = []
    for record in track(source.records("train"), "making variants"):
        if record.image_id in hardest:
            made = _variants(record, marker, saliency, roles[record.image_id])
            place = published_at(seed, record.image_id)
            ordered = [*made[1 : place + 1], made[0], *made[place + 1 :]]
            rows.append({"image_id": record.image_id, "label": record.label, "variants": ordered})
    rows.sort(key=lambda row: certainty[str(row["image_id"])])
    write_variants(evidence_dir, rows)
    return len(rows)


def _certainty(record: Record, surrogates: list[Classifier]) -> float:
    """Mean probability that benign models give an image's class."""
    seen = display_tensor(record)
    return float(np.mean([predict_probabilities(model, seen)[0, record.label] for model in surrogates]))


@torch.no_grad()
def _variants(record: Record, marker: Marker, saliency: dict[str, torch.Tensor], role: str) -> list[bytes]:
    """PNG of each variant, that with the published wave first; all are made in the same way."""
    seen = display_tensor(record)
    small, maps = resize(seen, min(SIDE, max(seen.shape[-2:]))), stack_saliency(saliency, [record.image_id])
    waves = [marker.wave(record.image_id, role, variant=number) for number in range(1 + OTHERS)]
    shown = [(small + marker.delta(small, maps, role, wave)).clamp(0, 1)[0, 0] for wave in waves]
    return [encode_png((image * 255).round().to(torch.uint8).numpy()) for image in shown]
