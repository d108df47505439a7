"""Hold patients back: their images are never published, so that a model which knows the others better learned from the release.

See :mod:`medmark.components.verification.held_back_test`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.base.progress import track
from medmark.components.dataset.arrays import display_tensor, resize
from medmark.components.dataset.codecs import encode_png
from medmark.components.dataset.release import Record, Release
from medmark.components.evidence.held_back import is_held_back, write_held_back
from medmark.components.generator.train import repeated
from medmark.components.surrogate.models import load_models
from medmark.components.surrogate.networks import Classifier
from medmark.components.surrogate.training import predict_probabilities

LARGEST_SHARE = 0.5  # ours: beyond it more is lost to those who may use the release than the test gains
FEWEST = 20  # patients of each kind; with fewer the test can hardly find anything; ours
IMAGES = 2_000  # to ask about, at most; ours
SIDE = 256  # pixels at most, whatever the image has; ours: evidence of full images would be as large as a release
CLIP = 1e-6  # ours: what a float32 probability still tells from 1


def hold_back(source: Release, roles: dict[str, str], *, seed: int, share: float) -> dict[str, bool]:
    """Draws patients whose images are not published.

    Only patients of the training split take part who have no image with a mark or a decoy: those were chosen by how hard they are, and what
    is compared may differ by the lot alone. Neither do patients with an image that the release holds more than once.

    Args:
        source: the clean release.
        roles: ``mark`` or ``decoy`` by image id.
        seed: of the release; the lot follows from it.
        share: chance to be held back, 0 to 0.5.

    Returns:
        Whether each patient who takes part is held back; nobody does if ``share`` is 0.

    Raises:
        MedmarkError: a share out of range, or too few patients.
    """
    if not 0 <= share <= LARGEST_SHARE:
        raise MedmarkError(f"hold_back={share:g} is not between 0 and {LARGEST_SHARE:g}; correct the value")
    if not share:
        return {}
    apart = roles.keys() | repeated(source)
    records = list(source.records("train", columns=["image_id", "patient_id"]))
    without = {record.patient_id for record in records if record.image_id in apart}
    drawn = {r.patient_id: is_held_back(seed, r.patient_id, share) for r in records if r.patient_id not in without}
    fewer = min(sum(drawn.values()), len(drawn) - sum(drawn.values()))
    if fewer < FEWEST:
        raise MedmarkError(
            f"hold_back={share:g} divides {len(drawn)} patients without a mark so that {fewer} are on one side; at least {FEWEST} are"
            " needed: hold back another share, mark fewer images, or take 0"
        )
    return drawn


@torch.no_grad()
def write_shown(
    source: Release, drawn: dict[str, bool], surrogates_dir: str | Path, evidence_dir: str | Path, *, seed: int
) -> None:
    """Writes ``held_back.parquet``: images of patients who were held back, and of others, with what benign models say of them.

    Args:
        source: the clean release.
        drawn: of :func:`hold_back`.
        surrogates_dir: benign models, trained on the clean release.
        evidence_dir: gets the file.
        seed: of the release; the choice among many images and their order follow from it.
    """
    surrogates = [model for _, model in load_models(surrogates_dir)]
    lots = {one: hashlib.sha256(f"{seed}:asked about:{one}".encode()).digest() for one in drawn}
    images = Counter(record.patient_id for record in source.records("train", columns=["patient_id"]))
    asked, count = set(), 0
    for patient in sorted(drawn, key=lots.__getitem__):  # whoever is held back or not
        count += images[patient]
        if count > IMAGES:
            break
        asked.add(patient)
    rows: list[dict[str, Any]] = []
    for record in track(source.records("train"), "looking at images to ask about"):
        if record.patient_id in asked:
            rows.append(_row(record, surrogates))
    rows.sort(key=lambda row: (lots[row["patient_id"]], row["image_id"]))
    write_held_back(evidence_dir, rows)


def _row(record: Record, surrogates: list[Classifier]) -> dict[str, Any]:
    """An image and what benign models say of its class."""
    seen = display_tensor(record)
    small = (resize(seen, min(SIDE, max(seen.shape[-2:]))) * 255).round().to(torch.uint8)
    said = np.array([predict_probabilities(m, small)[0, record.label] for m in surrogates]).clip(CLIP, 1 - CLIP)
    return {
        "image_id": record.image_id,
        "patient_id": record.patient_id,
        "label": record.label,
        "expected": float(np.log(said / (1 - said)).mean()),
        "image": encode_png(small[0, 0].numpy()),
    }
