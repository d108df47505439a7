"""Measure whether the mark is still recognised in images that were resized or compressed as JPEG."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from medmark.components.base.progress import track
from medmark.components.dataset.arrays import resize
from medmark.components.evidence.queries import QuerySet
from medmark.components.verification.interrogation import Suspect, interrogate
from medmark.components.verification.judgement import judge, leave_one_out
from medmark.components.verification.verdict import Thresholds, is_accused
from PIL import Image


def shrink(images: torch.Tensor, factor: float) -> torch.Tensor:
    """Resizes (N, 1, S, S) by ``factor`` <= 1 with antialiasing, and back to S."""
    side = images.shape[-1]
    return resize(resize(images, max(8, round(side * factor))), side).clamp(0, 1)


def jpeg(images: torch.Tensor, quality: float) -> torch.Tensor:
    """Encodes (N, 1, S, S) as 8-bit JPEG of this quality (a whole number, 1 to 95) and decodes it again."""
    decoded = []
    for image in (images * 255).round().byte().numpy()[:, 0]:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG", quality=int(quality))
        decoded.append(np.asarray(Image.open(stream)))
    return torch.from_numpy(np.stack(decoded)).float()[:, None] / 255


@dataclass(frozen=True)
class Curve:
    """What is done to images, by strength.

    Attributes:
        name: as ``verdict.json`` has it.
        process: from (N, 1, S, S) float32 in [0, 1] and a strength to the same.
        strengths: from no or little processing to much.
    """

    name: str
    process: Callable[[torch.Tensor, float], torch.Tensor]
    strengths: tuple[float, ...]


CURVES = (Curve("resize", shrink, (1.0, 0.75, 0.5, 0.375, 0.25)), Curve("jpeg", jpeg, (95, 85, 75, 60, 50)))


def jpeg_and_resize_curves(
    marked_models: Mapping[str, Suspect],
    benign_models: Mapping[str, Suspect],
    queries: QuerySet,
    thresholds: Thresholds,
) -> list[dict[str, Any]]:
    """Judges every model again on images that were resized, or compressed as JPEG, by several strengths.

    Returns:
        A row for every model, kind and strength: target rates of marked and clean images, ``delta_p`` between them, and
        ``accused``: whether all tests pass, for a marked model or, leave one out, for a benign model.
    """
    rows: list[dict[str, Any]] = []
    steps = [(curve, strength) for curve in CURVES for strength in curve.strengths]
    for curve, strength in track(steps, "resizing and JPEG curves"):
        processed = replace(
            queries,
            clean=curve.process(queries.clean, strength),
            marked=curve.process(queries.marked, strength),
            control=None if queries.control is None else curve.process(queries.control, strength),
        )
        # without the control's proofs a benign model is accused sooner: stricter for us, and a third cheaper
        unguarded = replace(processed, control=None)
        asked = {name: interrogate(model, unguarded) for name, model in benign_models.items()}
        caught = {name: interrogate(model, processed) for name, model in marked_models.items()}
        everyone = list(asked.values())
        results = [("victim", judge(name, answers, everyone, thresholds)) for name, answers in caught.items()]
        results += [("innocent", result) for result in leave_one_out(asked, thresholds)]
        rows += [
            {
                "processing": curve.name,
                "strength": strength,
                "role": role,
                "model": result.name,
                "wsr": result.labels.wsr,
                "clean_rate": result.labels.clean_rate,
                "delta_p": result.effect.delta_p,
                "accused": is_accused(result.decision.failed),
            }
            for role, result in results
        ]
    return rows
