"""Publishing the correction of an image so that it looks the same whether the image is marked or not.

Both versions are public, and so is their difference. For an image without a mark that is the correction. A marked image therefore
keeps, wherever it was not corrected, the bytes that are public, and where it was, its mark on top of the correction: the
difference is the correction again. This needs the correction to be local. One that touches most of an image (another contrast,
another crop) would show the mark as what does not follow it, so the image is withdrawn, marked or not.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.codecs import decode_png
from medmark.components.dataset.release import Record, Release, with_pixels
from medmark.components.evidence.keep import Original, read_originals
from medmark.components.generator.hiding import constant_areas
from medmark.components.poisoning.quality import compare

MOST_CORRECTED = 0.25  # share of an image's pixels; ours: covering a burnt-in name takes a few hundredths


def corrected(
    published: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    first: np.ndarray | None = None,
    first_published: np.ndarray | None = None,
) -> np.ndarray | None:
    """The next published version of an image.

    Args:
        published: (H, W) stored values that are public, with the mark if there is one.
        before: (H, W) the same image without it; equal to ``published`` if it has none.
        after: (H, W) the corrected image without it.
        first, first_published: (H, W) as it was marked, without and with the mark, if it was corrected before: a value that comes
            back looks as it did.

    Returns:
        (H, W); None if the correction is not local. That depends on ``before`` and ``after`` alone.
    """
    if after.shape != before.shape or after.dtype != before.dtype:
        return None
    touched = after != before
    if touched.mean() > MOST_CORRECTED:
        return None
    first = before if first is None else first
    first_published = published if first_published is None else first_published
    mark = first_published.astype(np.int64) - first
    mark[constant_areas(after)] = 0  # a name is covered with one value, marked or not
    mark[after == first] = (first_published.astype(np.int64) - first)[after == first]
    wanted = (after + mark)[touched]
    # no value that the image does not use
    values = np.union1d(np.unique(after), np.unique(first_published)).astype(np.int64)
    above = np.clip(np.searchsorted(values, wanted), 1, max(1, len(values) - 1))
    low, high = values[above - 1], values[np.minimum(above, len(values) - 1)]
    made = published.copy()
    made[touched] = np.where(wanted - low < high - wanted, low, high).astype(published.dtype)
    return made


@dataclass
class Corrections:
    """Images whose pixels a drop changes.

    Attributes:
        files: the next published version by id, as encoded.
        rows: of the ledger, of marked ones.
        firsts: of marked ones: ``first`` and ``first_published`` of :class:`medmark.components.evidence.keep.Original`.
        withheld: ids of those whose correction cannot be published.
    """

    files: dict[str, Path] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    firsts: dict[str, tuple[Path, Path]] = field(default_factory=dict)
    withheld: set[str] = field(default_factory=set)


def correct_images(
    before: Release,
    images: Release,
    arrived: dict[str, Record],
    changed: set[str],
    ledger: dict[str, dict[str, Any]],
    keep_dir: Path,
    folder: Path,
) -> Corrections:
    """The next versions of published images, on disk, since they need not fit into memory.

    Args:
        before: the previous marked release.
        images: what the drop brings.
        arrived: fields of these images, by id.
        changed: ids of published images of which the drop brings another version.
        ledger: rows of the previous evidence, by id.
        keep_dir: what was kept with it.
        folder: an empty one, for the images.

    Raises:
        MedmarkError: the original of a marked image is missing.
    """
    clean = {r.image_id: r.sha256 for r in before.records(columns=["image_id", "sha256"]) if r.image_id in changed}
    clean |= {i: row["clean_sha256"] for i, row in ledger.items() if i in changed}
    touched = {image_id for image_id in changed if arrived[image_id].sha256 != clean[image_id]}
    originals = read_originals(keep_dir)
    if originals is None:  # of a keep by an earlier medmark: what marked images were is not known, so none is corrected
        return Corrections(withheld=touched)
    found, columns = Corrections(), ["image_id", "image"]
    now = {r.image_id: _on_disk(folder, r.image) for r in images.records(columns=columns) if r.image_id in touched}
    wanted = touched & set(ledger)
    was = {o.image_id: _Kept.of(o, folder) for o in (originals if wanted else ()) if o.image_id in wanted}
    if missing := wanted - set(was):
        raise MedmarkError(f"no original of the marked image {min(missing)}: {keep_dir}; restore it from a backup")
    for file, _, _ in before.shards:
        if not any(r.image_id in touched for r in before.records(columns=["image_id"], shard=file)):
            continue
        for record in before.records(shard=file):
            name = record.image_id
            if name not in touched:
                continue
            unmarked = replace(arrived[name], image=now[name].read_bytes())
            clean_before, *first = was[name].read(record) if name in was else [record.image] * 3
            versions = (record.image, clean_before, unmarked.image, *first)
            pixels = corrected(*(decode_png(version) for version in versions))
            if pixels is None:
                found.withheld.add(name)
                continue
            made = with_pixels(unmarked, pixels)
            found.files[name] = _on_disk(folder, made.image)
            if name in ledger:
                found.rows[name] = ledger[name] | compare(unmarked, made)
                found.firsts[name] = _on_disk(folder, first[0]), _on_disk(folder, first[1])
    return found


@dataclass(frozen=True)
class _Kept:
    """A marked image without its mark, on disk; see :class:`medmark.components.evidence.keep.Original`."""

    image: Path
    firsts: tuple[Path, Path] | None

    @classmethod
    def of(cls, original: Original, folder: Path) -> _Kept:
        """Puts an original on disk."""
        image, first, published = _on_disk(folder, original.image), original.first, original.first_published
        if first is None or published is None:
            return cls(image, None)
        return cls(image, (_on_disk(folder, first), _on_disk(folder, published)))

    def read(self, published: Record) -> list[bytes]:
        """The image, and how it was when it was marked, without and with the mark: now, if it was never corrected."""
        image = self.image.read_bytes()
        if self.firsts is None:
            return [image, image, published.image]
        return [image, *(path.read_bytes() for path in self.firsts)]


def _on_disk(folder: Path, image: bytes) -> Path:
    """A file with the image, in a folder that holds nothing else."""
    path = folder / str(len(os.listdir(folder)))
    path.write_bytes(image)
    return path
