"""The key of the mark: direction and frequency of a wave, drawn from a public table of 1,800 by the release's seed.

Each marked image carries a wave of the key with a phase of its own, turned to the left or to the right, because training mirrors
images. Images of other classes can carry decoys, waves of other keys: a model that sees both learns the key more sharply (measured:
benchmarks/results/keys_phantoms_64.json). How well a model's answers tell the key from the others of the table is tested by
:mod:`medmark.components.verification.key_test`.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import numpy as np

# coarser waves are answered to by models that never saw one, finer ones cost SSIM (benchmarks/results/key_attempts_kermany.json,
# frontier_kermany.json); periods per image side
CYCLES = tuple(float(c) for c in np.geomspace(4.0, 11.3, 40))
DEGREES = tuple(float(d) for d in range(1, 91, 2))  # a direction and its mirror image are one key
KEYS = len(CYCLES) * len(DEGREES)
# a model that learned one wave answers within 20 degrees and a quarter octave, and not at 40 degrees (frontier_kermany.json)
CONTROL_APART = 40.0  # degrees
DECOYS_APART = (15.0, 0.3)  # degrees or octaves from the mark, ours
MIDDLE = 6.7  # cycles of a wave that has the amplitude that was asked for
SLOPE = 0.9  # waves of equal SSIM are fainter the finer they are: by this power of their cycles; ours, from two frequencies on phantoms


@dataclass(frozen=True)
class Key:
    """The secret of a wave.

    Attributes:
        degrees: direction of the wave, 0 to 180; 0 varies along x.
        cycles: periods per image side.
        phase: radians.
    """

    degrees: float
    cycles: float
    phase: float

    @property
    def strength(self) -> float:
        """How much stronger or fainter its waves are than those of :data:`MIDDLE` cycles, for equal SSIM."""
        return (MIDDLE / self.cycles) ** SLOPE


def draw_key(seed: int, index: int = 0) -> Key:
    """A key from a seed, each of the table with the same chance.

    Args:
        seed: of the release.
        index: 0 for the release's mark; 1 for the control, which is drawn from all directions at least
            :data:`CONTROL_APART` from the mark's.
    """
    own = _draw(np.random.default_rng((seed, 77)))
    if index == 0:
        return own
    rng = np.random.default_rng((seed, 78, index))
    while True:
        other = _draw(rng)
        if abs(other.degrees - own.degrees) >= CONTROL_APART:
            return other


def draw_decoy_key(seed: int, image_id: str) -> Key:
    """The key of the decoy in one image: any of the table that is not the mark's or one close to it."""
    own, rng = draw_key(seed), np.random.default_rng(_number(seed, "decoy", image_id))
    degrees, octaves = DECOYS_APART
    while True:
        key = _draw(rng)
        if abs(key.degrees - own.degrees) > degrees or abs(math.log2(key.cycles / own.cycles)) > octaves:
            return key


def in_image(key: Key, seed: int, image_id: str) -> Key:
    """The wave of a key in one image: with a phase of its own, and turned either way.

    Args:
        key: of the table.
        seed: of the release; without it, neither can be told.
        image_id: of the image.
    """
    rng = np.random.default_rng(_number(seed, "wave", image_id))
    return turned(key, float(rng.uniform(0, 2 * math.pi)), bool(rng.integers(2)))


def turned(key: Key, phase: float, mirrored: bool) -> Key:
    """The key's wave with this phase, or the mirror image of such a wave."""
    return replace(key, phase=phase, degrees=(180.0 - key.degrees) % 180.0 if mirrored else key.degrees)


def _draw(rng: np.random.Generator) -> Key:
    return Key(
        DEGREES[rng.integers(len(DEGREES))], CYCLES[rng.integers(len(CYCLES))], float(rng.uniform(0, 2 * math.pi))
    )


def _number(seed: int, what: str, image_id: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{what}:{image_id}".encode()).digest(), "big")
