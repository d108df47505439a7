"""Which images of a drop get a mark, so that the shares of the first release are kept over many small drops."""

from __future__ import annotations

import hashlib

import numpy as np
from medmark.components.dataset.arrays import display_tensor, resize
from medmark.components.dataset.release import Record, Release
from medmark.components.generator.marker import Marker
from medmark.components.generator.selection import MAX_SHARE_OF_CLASS
from medmark.components.surrogate.networks import Classifier
from medmark.components.surrogate.training import predict_probabilities

CATCH_UP = 10  # ours: new images of a kind over which marks that are missing, or too many, are made up for


def choose(
    images: Release,
    new: set[str],
    kept: list[Record],
    roles: dict[str, str],
    marker: Marker,
    surrogates: list[Classifier],
    shares: dict[str, float],
    seed: int,
) -> dict[str, str]:
    """Roles of new images, so that the shares of the first release are kept over many small drops.

    As :func:`medmark.components.generator.selection.select`: of the target class those that benign models find hardest. How
    many is rounded at random, and small drops make up for little of what is missing: otherwise an adversary who knows the share could
    tell in which of many drops of one image the marked ones came.

    Args:
        images: what the drop brings.
        new: ids of the added ones.
        kept: fields of the other images of the new release.
        roles: of those.
        marker: for the target class.
        surrogates: benign models.
        shares: see :func:`medmark.components.evidence.keep.write_keep`.
        seed: of rounding and the decoys' choice; secret.
    """
    chosen: dict[str, str] = {}
    for role, of_target in (("mark", True), ("decoy", False)):
        candidates = [
            r.image_id
            for r in images.records("train", columns=["image_id", "label", "split"])
            if r.image_id in new and (r.label == marker.target) == of_target
        ]
        there = sum(r.split == "train" and (r.label == marker.target) == of_target for r in kept)
        missing = shares[role] * there - sum(r == role for r in roles.values())
        wanted = shares[role] * len(candidates) + missing * min(1.0, len(candidates) / CATCH_UP)
        drawn = hashlib.sha256(f"{seed}:{role}:{images.parent}".encode()).digest()
        rounding = int.from_bytes(drawn[:6], "big") / 2**48
        count = int(max(0.0, min(wanted, MAX_SHARE_OF_CLASS * len(candidates))) + rounding)
        if not count:
            continue
        if of_target:
            certainty = _certainty(images, set(candidates), surrogates, marker.target)
            order = sorted(candidates, key=lambda image_id: (certainty[image_id], image_id))
        else:
            order = sorted(candidates, key=lambda i: hashlib.sha256(f"{seed}:decoy:{i}".encode()).hexdigest())
        chosen |= dict.fromkeys(order[:count], role)
    return chosen


def _certainty(images: Release, wanted: set[str], surrogates: list[Classifier], target: int) -> dict[str, float]:
    """Mean P(target) of the benign models."""
    certainty: dict[str, float] = {}
    for record in images.records():
        if record.image_id in wanted:
            shown = display_tensor(record)
            answers = [predict_probabilities(m, resize(shown, m.size))[0, target] for m in surrogates]
            certainty[record.image_id] = float(np.mean(answers))
    return certainty
