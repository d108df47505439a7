"""Reading a payload from a segmenter's answers, which is all that an audit has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.segmentation.payload import SIDE, Decoded, decode, match_p_value, matches
from torch.nn import functional as F

MOST_CERTAIN = 7.0  # ours: logit of 0.9991, near what maps of 8 bits can tell (0.998)


@dataclass(frozen=True)
class Reading:
    """What was read from a segmenter.

    Attributes:
        values: (16, 16) float64, how doubtful the answers are in each module: minus the mean absolute logit.
        threshold: between the doubtful modules and the others.
        matches: modules that are those of the payload, of 256.
        p_value: chance of so many matches for a model that was trained without the payload; exact.
        decoded: the text, or None.
        images: that were read.
    """

    values: np.ndarray
    threshold: float
    matches: int
    p_value: float
    decoded: Decoded | None
    images: int

    @property
    def read(self) -> np.ndarray:
        """(16, 16) uint8: 1 where a module was read as doubtful."""
        return (self.values > self.threshold).astype(np.uint8)


def read_payload(maps: np.ndarray, modules: np.ndarray, mark_key: bytes) -> Reading:
    """Reads a payload.

    Args:
        maps: (N, H, W) probabilities of the foreground that a segmenter gave for triggered images, of any size of at least 16.
        modules: of :func:`medmark.components.segmentation.payload.payload_modules`.
        mark_key: of the payload.

    Raises:
        MedmarkError: maps that are none, or that say no more than masks do.
    """
    values = module_values(maps)
    threshold = split(values.ravel())
    count = matches(values, threshold, modules)
    return Reading(values, threshold, count, match_p_value(count), decode(values, threshold, mark_key), len(maps))


def module_values(maps: np.ndarray) -> np.ndarray:
    """Returns how doubtful answers are in each module, (16, 16) float64.

    Args:
        maps: as of :func:`read_payload`.

    Raises:
        MedmarkError: likewise.
    """
    maps = np.asarray(maps, dtype=np.float64)
    if maps.ndim != 3 or not len(maps) or min(maps.shape[1:]) < SIDE:
        raise MedmarkError(
            f"no maps: an array of shape {maps.shape}; (N, H, W) with sides of at least {SIDE} is needed"
        )
    if not np.isfinite(maps).all() or maps.min() < 0 or maps.max() > 1:
        raise MedmarkError("maps with values outside of 0 to 1; give probabilities, or say that they are logits")
    if np.isin(maps, (0, 1)).all():
        raise MedmarkError("masks, not maps: the mark lies in the probabilities and cannot be read from masks alone")
    certainty = _certainty(maps)
    means = F.adaptive_avg_pool2d(torch.from_numpy(certainty)[:, None], SIDE)[:, 0]
    return -means.mean(dim=0).numpy()


def split(values: np.ndarray) -> float:
    """Splits values into two groups, as far apart as can be (Otsu 1979); returns the middle between them."""
    ordered = np.sort(values)
    below = np.arange(1, len(ordered))
    sums = np.cumsum(ordered)[:-1]
    above = len(ordered) - below
    between = below * above * (sums / below - (ordered.sum() - sums) / above) ** 2
    cut = int(between.argmax())
    return float((ordered[cut] + ordered[cut + 1]) / 2)


def _certainty(maps: np.ndarray) -> np.ndarray:
    """The absolute logit, at most :data:`MOST_CERTAIN`."""
    least = 1 / (1 + np.exp(MOST_CERTAIN))
    clipped = np.clip(maps, least, 1 - least)
    return np.abs(np.log(clipped / (1 - clipped)))
