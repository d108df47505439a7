"""What unlocking must refuse: images, locks and keys that somebody changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.codecs import decode_png
from medmark.components.dataset.release import Record, with_pixels
from medmark.components.locking.locks import Lock
from medmark.components.locking.unlock import unlock

KINDS = 8


def accepted(held: Sequence[tuple[Record, Lock]], key: bytes, mode: str, count: int, rng: np.random.Generator) -> int:
    """Tries to unlock changed inputs: one bit of an image, of what is sealed or of the key, sealed parts cut short or of another image,
    and locks that say another place, opacity or kind.

    Args:
        held: images of a locked release, and their locks.
        key: of the release.
        mode: the release's ``image_mode``.
        count: inputs to try; the kinds take turns.
        rng: draws what is changed.

    Returns:
        How many were not refused.
    """
    opened = 0
    for number in range(count):
        record, lock = held[int(rng.integers(len(held)))]
        try:
            unlock(*tampered(record, lock, held, key, mode, number % KINDS, rng), mode)
            opened += 1
        except MedmarkError:
            continue
    return opened


def tampered(
    record: Record,
    lock: Lock,
    held: Sequence[tuple[Record, Lock]],
    key: bytes,
    mode: str,
    kind: int,
    rng: np.random.Generator,
) -> tuple[Record, Lock, bytes]:
    """Changes one input in one way, 0 to :data:`KINDS` - 1; see :func:`accepted`."""
    if kind == 0:
        pixels = decode_png(record.image, mode=mode)
        pixels[tuple(rng.integers(0, side) for side in pixels.shape)] ^= pixels.dtype.type(1 << rng.integers(8))
        return with_pixels(record, pixels), lock, key
    if kind == 1:
        return record, replace(lock, sealed=_flipped(lock.sealed, rng)), key
    if kind == 2:
        return record, replace(lock, sealed=lock.sealed[: int(rng.integers(len(lock.sealed)))]), key
    if kind == 3:
        return record, lock, _flipped(key, rng)
    if kind == 4:
        others = [other.sealed for _, other in held if other.image_id != lock.image_id] or [b""]
        return record, replace(lock, sealed=others[int(rng.integers(len(others)))]), key
    if kind == 5:
        return record, replace(lock, x=lock.x + 1), key
    if kind == 6:
        return record, replace(lock, alpha=lock.alpha ^ 1), key
    return record, replace(lock, masked=not lock.masked), key


def _flipped(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with one bit changed."""
    changed = bytearray(data)
    changed[int(rng.integers(len(changed)))] ^= 1 << int(rng.integers(8))
    return bytes(changed)
