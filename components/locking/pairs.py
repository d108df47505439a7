"""The images of a locked release beside what they were."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.release import Record, Release
from medmark.components.locking.lesions import Box
from medmark.components.locking.locks import Lock


@dataclass(frozen=True)
class Pair:
    """An image of a locked release.

    Attributes:
        clean: as it was.
        locked: as it is.
        lock: what lies between.
    """

    clean: Record
    locked: Record
    lock: Lock


def read_pairs(clean: Release, locked: Release, locks: list[Lock]) -> Iterator[Pair]:
    """Yields the images of a locked release, in its order.

    Args:
        clean: release that was locked.
        locked: the locked release.
        locks: of its images, in their order.

    Raises:
        MedmarkError: an image that the clean release or the locks do not have.
    """
    originals, known = clean.records(), iter(locks)
    for record in locked.records():
        lock = next(known, None)
        original = next(
            (one for one in originals if one.image_id == record.image_id), None
        )  # those left out are passed
        if lock is None or original is None or lock.image_id != record.image_id:
            raise MedmarkError(f"no lock or no original of {record.image_id}: {locked.path}; give what one run made")
        yield Pair(original, record, lock)


def box_on_grid(lock: Lock, width: int, height: int, size: int) -> Box:
    """The logo's place where classifiers see the image as a square.

    Args:
        lock: of the image.
        width, height: of the image, pixels.
        size: side of the square, pixels.
    """
    left, right = (round(x * size / width) for x in (lock.x, lock.x + lock.width))
    top, bottom = (round(y * size / height) for y in (lock.y, lock.y + lock.height))
    return left, top, max(1, right - left), max(1, bottom - top)
