"""The key of the mark: direction, frequency and phase of a plane wave, drawn from the release's seed.

The key is small: a marked model answers to every wave within about 20 degrees and a quarter octave of its own
(benchmarks/results/frontier_kermany.json), so two owners can draw keys that one model answers to alike. The verdict therefore
also needs the prior commitment.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

CYCLES = (6.0, 7.5)  # 17 to 21 px at 128 px: coarser blends into anatomy, finer costs SSIM (frontier_kermany.json)
DEGREES = (75.0, 105.0)  # head to foot: kept by an adversary's mirroring, and learnt best (frontier_kermany.json)
APART = 40.0  # degrees; measured: a model that learned one wave answers within 20 degrees and not at 40 (frontier_kermany.json)
DECOY_KEYS = 16  # arbitrary


@dataclass(frozen=True)
class Key:
    """The secret of a carrier.

    Attributes:
        degrees: direction of the wave, 0 to 180; 0 varies along x.
        cycles: periods per image side.
        phase: radians.
    """

    degrees: float
    cycles: float
    phase: float


def draw_key(seed: int, index: int = 0) -> Key:
    """A key from a seed.

    Args:
        seed: of the release.
        index: 0 for the release's mark; 1 for the control, 2 and up for decoys, which are drawn from all directions at
            least :data:`APART` from the mark's and from its mirror image's.
    """
    rng = np.random.default_rng((seed, 77))
    own = float(rng.uniform(*DEGREES))
    if index == 0:
        return Key(own, float(rng.uniform(*CYCLES)), float(rng.uniform(0, 2 * math.pi)))
    rng = np.random.default_rng((seed, 78, index))
    while True:
        degrees = float(rng.uniform(0, 180))
        if min(_apart(degrees, own), _apart(degrees, 180 - own)) >= APART:
            return Key(degrees, float(rng.uniform(*CYCLES)), float(rng.uniform(0, 2 * math.pi)))


def draw_decoy_key(seed: int, image_id: str) -> Key:
    """The key of one decoy: one of a few that belong to the release, by the image's id."""
    return draw_key(seed, 2 + int.from_bytes(image_id.encode()[-4:], "big") % DECOY_KEYS)


def _apart(a: float, b: float) -> float:
    """Angle between two directions, 0 to 90 degrees."""
    gap = abs(a - b) % 180
    return min(gap, 180 - gap)
