"""Releases: the one directory format that every step passes on, and reading one.

A release is complete when it has a ``release.json``: it is written last, names the SHA-256 of every shard, and its own
SHA-256 is the release's digest. It also names the parent digest, that of the release it was made from. Nothing in a release
carries a time, so the same input gives the same digest.

Read one, streaming::

    release = Release(path)
    for record in release.records(split="train"):
        ...

Write one with :class:`medmark.components.dataset.release_writer.ReleaseWriter`.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from medmark.components.base.digests import file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.codecs import encode_png

SCHEMA_VERSION = 2  # of grey images for classification, which older versions of medmark read
MASKED_SCHEMA_VERSION = 3  # for segmentation, grey or RGB
LESION_SCHEMA_VERSION = 4  # for classification, in RGB or with masks of lesions
CHANGES_SCHEMA_VERSION = 1  # of changes.json
READ_VERSIONS = (1, 2, 3, 4)
TASKS = ("classification", "segmentation")
IMAGE_MODES = ("L", "RGB")
SPLITS = ("train", "val", "test")
MAX_MANIFEST_BYTES = 64 * 1024**2  # a larger release.json is not ours
IMAGE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

ARROW_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("image", pa.binary()),
        ("encoding", pa.string()),
        ("label", pa.int32()),
        ("patient_id", pa.string()),
        ("split", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("bits", pa.int32()),
        ("sha256", pa.string()),
        ("dicom", pa.string()),
    ]
)
MASKED_ARROW_SCHEMA = ARROW_SCHEMA.append(pa.field("mask", pa.binary())).append(pa.field("mask_sha256", pa.string()))


@dataclass(frozen=True)
class Record:
    """One image of a release.

    Attributes:
        image_id: unique name; letters, digits, ``.``, ``_`` and ``-``. Ingest draws it with the patients' key.
        image: encoded bytes (PNG, see :mod:`medmark.components.dataset.codecs`).
        encoding: always ``"png"``.
        label: index into the release's class names.
        patient_id: pseudonym; all images of one patient are in one split.
        split: ``train``, ``val`` or ``test``.
        width: pixels.
        height: pixels.
        bits: significant bits of a stored value, 1 to 16.
        sha256: hex digest of ``image``.
        dicom: JSON of the display attributes of a DICOM source, or None.
        mask: encoded bytes (PNG) of the mask, as large as the image, 0 for background and 1 for foreground. In a release for
            classification the foreground is lesions, and None means that nobody said where they are.
        mask_sha256: hex digest of ``mask``, or None.
    """

    image_id: str
    image: bytes
    encoding: str
    label: int
    patient_id: str
    split: str
    width: int
    height: int
    bits: int
    sha256: str
    dicom: str | None = None
    mask: bytes | None = None
    mask_sha256: str | None = None

    @property
    def display(self) -> dict[str, Any] | None:
        """The DICOM display attributes as a dictionary."""
        return json.loads(self.dicom) if self.dicom else None


def with_pixels(record: Record, pixels: np.ndarray) -> Record:
    """Gives a record other stored values (H, W), encoded as every image of a release is."""
    data = encode_png(pixels)
    return replace(record, image=data, sha256=hashlib.sha256(data).hexdigest())


def arrow_schema(task: str, lesions: bool) -> pa.Schema:
    """Returns the columns of a release's shards.

    Args:
        task: ``classification`` or ``segmentation``.
        lesions: whether images for classification have masks of their lesions.
    """
    return MASKED_ARROW_SCHEMA if task == "segmentation" or lesions else ARROW_SCHEMA


class Shard(NamedTuple):
    """One Parquet file of a release.

    Attributes:
        file: path inside the release.
        sha256: hex digest of the file.
        rows: images in it.
    """

    file: str
    sha256: str
    rows: int


class Release:
    """A complete release on disk.

    Args:
        path: directory of the release.

    Attributes:
        digest: SHA-256 of ``release.json``, hex.
        parent: parent digest: that of the release this one was made from, or None.
        name, version, class_names: as written. Of a release for segmentation, ``background`` and what the masks show; an image's
            label is 0 if its mask is empty, else 1.
        task: ``classification`` or ``segmentation``.
        image_mode: ``L`` or ``RGB``; the latter only in schema versions 3 and 4.
        lesions: whether some images for classification have masks of their lesions; only in schema version 4.
        schema_version: 2; 3 for segmentation; 4 for classification in colour or with masks of lesions. 1 is read as well: its ids hold
            file names, and it may hold ``rejected.parquet``.
        counts: ``{split: {class name: images}}``.
        shards: the Parquet files, in order.
        rejected: None, or how many were set aside: ``rows``; in version 1 also ``file`` and ``sha256``.
        changes: None, or what ``release.json`` says of ``changes.json``: ``file`` and ``sha256``.

    Raises:
        MedmarkError: ``release.json`` is missing, damaged, or not a release's.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        manifest_path = self.path / "release.json"
        if not manifest_path.is_file():
            raise MedmarkError(f"not a complete release: {self.path} has no release.json; run 'medmark ingest' again")
        if manifest_path.stat().st_size > MAX_MANIFEST_BYTES:
            raise MedmarkError(
                f"not a release: {manifest_path} is larger than {MAX_MANIFEST_BYTES} bytes; get it again"
            )
        raw = manifest_path.read_bytes()
        try:
            manifest = json.loads(raw)
            version = manifest["schema_version"]
            if type(version) is not int or version not in READ_VERSIONS:
                raise MedmarkError(
                    f"unknown schema version {version!r}: {manifest_path}; this medmark reads 1 to {READ_VERSIONS[-1]}"
                )
            self.schema_version = version
            self.name = str(manifest["name"])
            self.version = str(manifest["version"])
            self.class_names = [str(name) for name in manifest["class_names"]]
            self.image_mode = str(manifest["image_mode"])
            self.task = str(manifest["task"])
            if (
                self.task != TASKS[version == MASKED_SCHEMA_VERSION]
                or self.image_mode not in IMAGE_MODES[: 1 + (version > 2)]
            ):
                raise ValueError(f"{self.image_mode} images for {self.task} in schema version {version}")
            self.lesions = version == LESION_SCHEMA_VERSION and bool(manifest["lesions"])
            self.parent: str | None = manifest["parent"]
            self.counts = {split: {c: int(manifest["counts"][split][c]) for c in self.class_names} for split in SPLITS}
            self.shards = [Shard(str(s["file"]), str(s["sha256"]), int(s["rows"])) for s in manifest["shards"]]
            self.rejected: dict[str, Any] | None = manifest["rejected"]
            if version > 1 and self.rejected is not None and set(self.rejected) != {"rows"}:
                raise ValueError("it says more of what was set aside than how much")
            self.changes: dict[str, Any] | None = manifest.get("changes")  # not there before the first update
            self._images = int(manifest["images"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise MedmarkError(f"damaged release.json: {manifest_path} ({error!r}); get the release again") from error
        for file, _, _ in self.shards:
            if not re.fullmatch(r"shards/part-\d{5}\.parquet", file):
                raise MedmarkError(f"shard outside the release: {file!r} in {manifest_path}; get the release again")
        self.digest = hashlib.sha256(raw).hexdigest()

    def __len__(self) -> int:
        return self._images

    @property
    def arrow_schema(self) -> pa.Schema:
        """Columns of the shards."""
        return arrow_schema(self.task, self.lesions)

    def records(
        self, split: str | None = None, columns: Iterable[str] | None = None, shard: str | None = None
    ) -> Iterator[Record]:
        """Streams records in stored order.

        Args:
            split: only this split; all when None.
            columns: columns to read; the others are None in the records. All when None.
            shard: only this file of :attr:`shards`; all when None.

        Raises:
            MedmarkError: a shard is missing or unreadable.
        """
        wanted = list(columns) if columns is not None else list(self.arrow_schema.names)
        read = wanted if split is None or "split" in wanted else [*wanted, "split"]
        empty = dict.fromkeys((f.name for f in fields(Record)), None)
        for file in [shard] if shard else [name for name, _, _ in self.shards]:
            try:
                with pq.ParquetFile(self.path / file) as table:
                    for batch in table.iter_batches(batch_size=64, columns=read):
                        for row in batch.to_pylist():
                            if split is None or row["split"] == split:
                                yield Record(**{**empty, **row})
            except (OSError, pa.ArrowException) as error:
                raise MedmarkError(f"unreadable shard: {self.path / file} ({error}); get the release again") from error

    def verify(self) -> None:
        """Checks every shard's and every image's SHA-256 and the counts.

        Raises:
            MedmarkError: naming the first thing that is not as ``release.json`` says.
        """
        for file, sha256, _ in self.shards:
            if not (self.path / file).is_file() or file_sha256(self.path / file) != sha256:
                raise MedmarkError(f"shard changed or missing: {self.path / file}; get the release again")
        if self.changes is not None:
            self.read_changes()
        counts: Counter = Counter()
        masks = ["mask", "mask_sha256"] if "mask" in self.arrow_schema.names else []
        for record in self.records(columns=["image_id", "image", "label", "split", "sha256", *masks]):
            if hashlib.sha256(record.image).hexdigest() != record.sha256:
                raise MedmarkError(
                    f"image does not match its digest: {record.image_id} in {self.path}; get the release again"
                )
            unknown = self.lesions and record.mask is None and record.mask_sha256 is None
            if masks and not unknown and _sha256(record.mask) != record.mask_sha256:
                raise MedmarkError(
                    f"mask missing, or not that of its digest: {record.image_id} in {self.path}; get the release again"
                )
            if not 0 <= record.label < len(self.class_names):
                raise MedmarkError(
                    f"label out of range: {record.label} of {record.image_id} in {self.path}; get it again"
                )
            counts[(record.split, self.class_names[record.label])] += 1
        stated = {(split, name): n for split, by_class in self.counts.items() for name, n in by_class.items() if n}
        if dict(counts) != stated:
            raise MedmarkError(f"counts do not match release.json: {self.path}; get the release again")

    def read_changes(self) -> dict[str, Any] | None:
        """Reads ``changes.json`` and checks its digest; None if this release is no update.

        Raises:
            MedmarkError: it is missing or changed.
        """
        if self.changes is None:
            return None
        path = self.path / "changes.json"
        try:
            if not path.is_file():  # a pipe would be waited for
                raise ValueError("no file")
            if self.changes["file"] != path.name or file_sha256(path) != self.changes["sha256"]:
                raise ValueError("its digest is another")
            return json.loads(path.read_bytes())
        except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise MedmarkError(
                f"list of changes missing or changed: {path} ({error}); get the release again"
            ) from error

    def class_index(self, name: str) -> int:
        """Returns the index of a class name.

        Raises:
            MedmarkError: there is no such class.
        """
        return class_index(self.class_names, name, self.path)


def _sha256(mask: bytes | None) -> str:
    return hashlib.sha256(mask).hexdigest() if mask is not None else ""


def copy_manifest(release_dir: str | Path, out_dir: str | Path) -> None:
    """Copies all of a release but its images: ``release.json``, what was signed and the list of changes. Enough to say what the release is.

    Args:
        release_dir: the release.
        out_dir: folder to make.
    """
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    for file in Path(release_dir).iterdir():
        if file.is_file() and file.suffix in (".json", ".tsr"):
            shutil.copyfile(file, out / file.name)


def class_index(class_names: list[str], name: str, path: Path) -> int:
    """Returns the index of a class name; arguments and errors as of :meth:`Release.class_index`, and where the names are from."""
    if name not in class_names:
        raise MedmarkError(f"unknown class: {name!r} in {path}; use one of {', '.join(class_names)}")
    return class_names.index(name)


def refuse_task(release: Release, task: str) -> None:
    """Refuses a release that was made for another task.

    Args:
        release: any release.
        task: what is wanted, ``classification`` or ``segmentation``.

    Raises:
        MedmarkError: it is for the other one.
    """
    if release.task != task:
        remedy = "ingest images with masks" if task == "segmentation" else "ingest images with classes"
        raise MedmarkError(f"release for {release.task}: {release.path}; one for {task} is needed, {remedy}")


def refuse_names(release: Release, what: str) -> None:
    """Refuses a release of schema version 1, whose ids hold file names.

    Args:
        release: any release.
        what: what cannot be done with it, as a participle for the message.

    Raises:
        MedmarkError: the release is of version 1.
    """
    if release.schema_version == 1:
        raise MedmarkError(
            f"image ids hold file names: {release.path} is of schema version 1 and cannot be {what}; give it new ids with"
            " 'medmark reissue', or, unmarked, ingest the raw images again"
        )
