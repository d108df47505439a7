"""Prepared images: a release's images as shown, resized once to 8 bits a value, for all steps that learn from them.

They are a folder with ``images.bin`` (the values, image after image in the release's order), ``rows.parquet`` (ids, labels, patients,
splits) and ``prepared.json``, which is written last and names the SHA-256 of both. They stand in for their release where its images are
wanted at that size only: 200,000 grey images of 128 px are 3.3 GB, however large the release is. They are as private as the release.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from medmark.components.base.atomic import write_atomic
from medmark.components.base.digests import HEX, canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.base.progress import track
from medmark.components.dataset.arrays import ImageArrays, decode_split, no_image, shown_bytes
from medmark.components.dataset.release import (
    IMAGE_ID,
    IMAGE_MODES,
    MAX_MANIFEST_BYTES,
    SPLITS,
    Record,
    Release,
    class_index,
    refuse_task,
)

PREPARED = "prepared.json"
PREPARED_SCHEMA_VERSION = 1
BATCH = 64  # arbitrary: images that are decoded at a time
MAX_SIZE = 4096  # pixels; arbitrary
IMAGES, ROWS = "images.bin", "rows.parquet"
COLUMNS = pa.schema(
    [
        ("image_id", pa.string()),
        ("label", pa.int32()),
        ("patient_id", pa.string()),
        ("split", pa.string()),
        ("sha256", pa.string()),
    ]
)
LONGEST = {"image_id": 128, "patient_id": 2048, "split": 8, "sha256": 64}  # bytes; of 512 characters of UTF-8
ROWS_AT_A_TIME = 4096  # arbitrary
FIELDS = {"schema_version", "release_digest", "class_names", "image_mode", "size", "images", "files"}


class Batch(NamedTuple):
    """Some images of a release.

    Attributes:
        records: without the encoded image.
        images: (N, C, S, S) uint8.
    """

    records: list[Record]
    images: torch.Tensor


class Prepared:
    """Prepared images on disk.

    Args:
        path: folder of :func:`prepare`.

    Attributes:
        digest: of the release that the images are from. What learns from them has learnt from that release.
        class_names, image_mode: of the release.
        size: side of the images, pixels.

    Raises:
        MedmarkError: a file is missing or damaged, or says what :func:`prepare` does not write. The images are checked against
            their SHA-256 when they are read.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            said = self._manifest()
            self.digest: str = said["release_digest"]
            self.class_names: list[str] = said["class_names"]
            self.image_mode: str = said["image_mode"]
            self.size: int = said["size"]
            self._images: int = said["images"]
            self._files: dict[str, str] = said["files"]
            self._rows = self._read_rows()
        except (OSError, ValueError, KeyError, TypeError, RecursionError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())[:200]
            raise MedmarkError(f"damaged prepared images: {self.path} ({reason}); prepare the release again") from error
        self._checked = False

    def __len__(self) -> int:
        return self._images

    def _manifest(self) -> dict[str, Any]:
        file = self.path / PREPARED
        if not file.is_file() or file.stat().st_size > MAX_MANIFEST_BYTES:
            raise ValueError(f"no {PREPARED}, or one that is too large")
        said = json.loads(file.read_bytes())
        _require(type(said) is dict and said.keys() == FIELDS, "fields")
        _require(type(said["schema_version"]) is int and said["schema_version"] == PREPARED_SCHEMA_VERSION, "version")
        _require(HEX.fullmatch(said["release_digest"]), "release_digest")
        names = said["class_names"]
        _require(type(names) is list and len(names) > 1 and all(type(name) is str for name in names), "class_names")
        _require(said["image_mode"] in IMAGE_MODES, "image_mode")
        _require(type(said["size"]) is int and 1 <= said["size"] <= MAX_SIZE, "size")
        _require(type(said["images"]) is int and said["images"] > 0, "images")
        _require(type(said["files"]) is dict and said["files"].keys() == {IMAGES, ROWS}, "files")
        _require(all(HEX.fullmatch(sha256) for sha256 in said["files"].values()), "files")
        return said

    def _read_rows(self) -> pa.Table:
        images, rows = self.path / IMAGES, self.path / ROWS
        _require(images.is_file() and images.stat().st_size == self._images * self._values, f"size of {IMAGES}")
        _require(rows.is_file() and file_sha256(rows) == self._files[ROWS], f"digest of {ROWS}")
        _require(pq.read_metadata(rows).num_rows == self._images and pq.read_schema(rows).equals(COLUMNS), ROWS)
        with pq.ParquetFile(rows) as file:
            batches = [_checked_rows(batch, len(self.class_names)) for batch in file.iter_batches(ROWS_AT_A_TIME)]
        table = pa.Table.from_batches(batches, COLUMNS)
        _require(pc.count_distinct(table["image_id"]).as_py() == self._images, "image_id")
        return table

    @property
    def _values(self) -> int:
        """Values of an image."""
        return int(np.prod(self._shape))

    @property
    def _shape(self) -> tuple[int, int, int]:
        return (3 if self.image_mode == "RGB" else 1, self.size, self.size)

    def class_index(self, name: str) -> int:
        """Returns the index of a class name, as :meth:`medmark.components.dataset.release.Release.class_index` does."""
        return class_index(self.class_names, name, self.path)

    def records(self, columns: Iterable[str] = COLUMNS.names) -> Iterator[Record]:
        """Yields a record of each image, in the release's order, in which some of :data:`COLUMNS` are set and the rest is None."""
        empty = dict.fromkeys((f.name for f in fields(Record)), None)
        for row in self._rows.select(list(columns)).to_pylist():
            yield Record(**{**empty, **row})

    def pixels(self) -> np.ndarray:
        """The images, (N, C, S, S) uint8, mapped from the file and read only.

        Raises:
            MedmarkError: they are not those that ``prepared.json`` names.
        """
        file = self.path / IMAGES
        if not self._checked and file_sha256(file) != self._files[IMAGES]:
            raise MedmarkError(f"damaged prepared images: {self.path} (digest of {IMAGES}); prepare the release again")
        self._checked = True
        return np.memmap(file, np.uint8, "r", shape=(self._images, *self._shape))


def prepare(release_dir: str | Path, out_dir: str | Path, *, size: int) -> Prepared:
    """Prepares the images of a release, streaming.

    Args:
        release_dir: release for classification.
        out_dir: folder to write.
        size: side that the images are squashed to, pixels.

    Raises:
        MedmarkError: the release is for segmentation or has no image, or a size that is not 1 to 4096.
    """
    release, out = Release(release_dir), Path(out_dir)
    refuse_task(release, "classification")
    if not 1 <= size <= MAX_SIZE:
        raise MedmarkError(f"size {size} of prepared images; use 1 to {MAX_SIZE}")
    if not len(release):
        raise no_image(None, release.path)
    out.mkdir(parents=True, exist_ok=True)
    with open(out / IMAGES, "wb") as images, pq.ParquetWriter(out / ROWS, COLUMNS, compression="zstd") as rows:
        for batch in _decoded(release, size, "preparing"):
            images.write(batch.images.numpy().tobytes())
            columns = {name: [getattr(record, name) for record in batch.records] for name in COLUMNS.names}
            rows.write_table(pa.table(columns, schema=COLUMNS))
    said = {
        "schema_version": PREPARED_SCHEMA_VERSION,
        "release_digest": release.digest,
        "class_names": release.class_names,
        "image_mode": release.image_mode,
        "size": size,
        "images": len(release),
        "files": {name: file_sha256(out / name) for name in (IMAGES, ROWS)},
    }
    write_atomic(out / PREPARED, canonical_json(said))
    return Prepared(out)


def is_prepared(path: str | Path) -> bool:
    """Whether a folder says that it holds prepared images."""
    return (Path(path) / PREPARED).exists()


def open_images(path: str | Path) -> Release | Prepared:
    """Opens a release, or images that were prepared from one."""
    return Prepared(path) if is_prepared(path) else Release(path)


def load_bytes(images: Release | Prepared, *, split: str, size: int) -> ImageArrays:
    """Loads a split, the same from a release as from what was prepared of it.

    Args:
        images: where from.
        split: train, val or test.
        size: side of the square, pixels.

    Returns:
        Its images as uint8.

    Raises:
        MedmarkError: the split has no image, the release is for segmentation, or the images were prepared at another size.
    """
    if isinstance(images, Release):
        return decode_split(images, split=split, size=size)
    refuse_size(images, size)
    wanted = np.flatnonzero(np.array(images._rows["split"].to_pylist()) == split)
    if not len(wanted):
        raise no_image(split, images.path)
    rows = images._rows.take(pa.array(wanted))
    return ImageArrays(
        torch.from_numpy(images.pixels()[wanted]),
        torch.tensor(rows["label"].to_pylist()),
        rows["image_id"].to_pylist(),
        rows["patient_id"].to_pylist(),
    )


def byte_batches(images: Release | Prepared, size: int, description: str) -> Iterator[Batch]:
    """Yields all images in the release's order, some at a time, and shows how far that is.

    Args:
        images: where from.
        size: side of the square, pixels.
        description: of what is done, a few words.

    Raises:
        MedmarkError: the images were prepared at another size.
    """
    if isinstance(images, Release):
        yield from _decoded(images, size, description)
        return
    refuse_size(images, size)
    pixels, records = images.pixels(), list(images.records())
    for first in track(range(0, len(images), BATCH), description):
        part = slice(first, first + BATCH)
        yield Batch(records[part], torch.from_numpy(pixels[part].copy()))


def refuse_size(images: Prepared, size: int) -> None:
    """Refuses prepared images of another size than is wanted."""
    if images.size != size:
        raise MedmarkError(f"prepared at {images.size} px: {images.path}; prepare the release at {size}")


def _decoded(release: Release, size: int, description: str) -> Iterator[Batch]:
    records: list[Record] = []
    images: list[torch.Tensor] = []
    for record in track(release.records(), description, len(release)):
        records.append(record)
        images.append(shown_bytes(record, release.image_mode, size))
        if len(records) == BATCH:
            yield Batch(records, torch.stack(images))
            records, images = [], []
    if records:
        yield Batch(records, torch.stack(images))


def _checked_rows(batch: pa.RecordBatch, classes: int) -> pa.RecordBatch:
    """Refuses rows that :func:`prepare` does not write; before others are read, so that they cannot fill the memory."""
    for name, longest in LONGEST.items():
        _require(not batch[name].null_count and pc.max(pc.binary_length(batch[name])).as_py() <= longest, name)
    _require(all(map(IMAGE_ID.fullmatch, batch["image_id"].to_pylist())), "image_id")
    _require(all(map(HEX.fullmatch, batch["sha256"].to_pylist())), "sha256")
    _require(set(batch["split"].to_pylist()) <= set(SPLITS), "split")
    _require(all(label is not None and 0 <= label < classes for label in batch["label"].to_pylist()), "label")
    return batch


def _require(holds: object, what: str) -> None:
    if not holds:
        raise ValueError(f"{what} is not as medmark writes it")
