"""Whether a locked release harms nobody: lesions stay clear, nothing else changes, and every image comes back."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.codecs import decode_png
from medmark.components.dataset.release import Record
from medmark.components.locking.lesions import Lesions
from medmark.components.locking.locks import Lock
from medmark.components.locking.pairs import Pair
from medmark.components.locking.tampering import accepted
from medmark.components.locking.unlock import unlock

TAMPERED = 1000  # inputs
HELD = 50  # images that are tampered with, at most; arbitrary


class Safety:
    """Adds up what is found image by image.

    Args:
        mode: the release's ``image_mode``.
        key: of the locked release.
    """

    def __init__(self, mode: str, key: bytes):
        self.mode, self.key = mode, key
        self.covered = self.changed = self.exact = 0
        self.lesions_from: Counter[str] = Counter()
        self.shares: list[float] = []
        self.held: list[tuple[Record, Lock]] = []

    def add(self, pair: Pair, lesions: Lesions) -> None:
        """Looks at one image.

        Args:
            pair: the image.
            lesions: where they are.
        """
        x, y, width, height = pair.lock.box
        inside = np.s_[y : y + height, x : x + width]
        clean, locked = (decode_png(record.image, mode=self.mode) for record in (pair.clean, pair.locked))
        shape = (pair.clean.height, pair.clean.width)
        where = decode_png(pair.clean.mask) > 0 if pair.clean.mask is not None else lesions.forbidden(shape, 0)
        self.covered += int(where[inside].sum())
        self.lesions_from[lesions.source] += 1
        differs = (clean != locked).reshape(*shape, -1).any(-1)
        differs[inside] = False
        self.changed += int(differs.sum())
        self.shares.append(width * height / (shape[0] * shape[1]))
        self.exact += self._comes_back(pair)
        if len(self.held) < HELD:
            self.held.append((pair.locked, pair.lock))

    def _comes_back(self, pair: Pair) -> bool:
        try:
            return unlock(pair.locked, pair.lock, self.key, self.mode) == pair.clean
        except MedmarkError:
            return False

    def found(self, rng: np.random.Generator) -> dict[str, Any]:
        """``lesions``, ``elsewhere``, ``cover`` and ``unlocked`` of ``verdict.json``.

        Args:
            rng: draws what is tampered with.
        """
        return {
            "lesions": {"covered_pixels": self.covered, "from": dict(self.lesions_from)},
            "elsewhere": {"changed_pixels": self.changed},
            "cover": {"mean": float(np.mean(self.shares)), "largest": float(np.max(self.shares))},
            "unlocked": {
                "images": len(self.shares),
                "exact": self.exact,
                "tampered": TAMPERED,
                "accepted": accepted(self.held, self.key, self.mode, TAMPERED, rng),
            },
        }
