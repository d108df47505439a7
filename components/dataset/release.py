"""Releases: the one directory format that every step reads and writes.

A release is complete when it has a ``release.json``: it is written last, names the SHA-256 of every shard, and its own
SHA-256 is the release's digest. Nothing in a release carries a time, so the same input gives the same digest.

Write one::

    with ReleaseWriter(path, name="cxr", version="1", class_names=["normal", "pneumonia"]) as writer:
        writer.add(Record(...))

Read it, streaming::

    release = Release(path)
    for record in release.records(split="train"):
        ...
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from medmark.components.base.atomic import write_atomic
from medmark.components.base.digests import canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError, cannot_write
from medmark.components.dataset.codecs import encode_png

SCHEMA_VERSION = 2
CHANGES_SCHEMA_VERSION = 1  # of changes.json
READ_VERSIONS = (1, 2)
SPLITS = ("train", "val", "test")
SHARD_BYTES = 64 * 1024**2  # images per shard, before compression; DESIGN
ROW_GROUP_BYTES = 8 * 1024**2  # arbitrary: what a reader holds in memory at a time
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


@dataclass(frozen=True)
class Record:
    """One image of a release.

    Attributes:
        image_id: unique name; letters, digits, ``.``, ``_`` and ``-``. Ingest draws it with the patients' key.
        image: encoded bytes (PNG, see :mod:`medmark.components.dataset.codecs`).
        encoding: always ``"png"``.
        label: index into the release's class names.
        patient_id: pseudonym; all images of one patient lie in one split.
        split: ``train``, ``val`` or ``test``.
        width: pixels.
        height: pixels.
        bits: significant bits of a stored value, 1 to 16.
        sha256: hex digest of ``image``.
        dicom: JSON of the display attributes of a DICOM source, or None.
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

    @property
    def display(self) -> dict | None:
        """The DICOM display attributes as a dictionary."""
        return json.loads(self.dicom) if self.dicom else None


def with_pixels(record: Record, pixels: np.ndarray) -> Record:
    """The record with other stored values (H, W), encoded as every image of a release is."""
    data = encode_png(pixels)
    return replace(record, image=data, sha256=hashlib.sha256(data).hexdigest())


class ReleaseWriter:
    """Writes a release; use as a context manager.

    ``release.json`` appears only when the block ends without an exception, so a crash leaves no half release behind
    that a reader would accept.

    Args:
        path: directory to make; it must not exist or be empty.
        name: name of the data set.
        version: version of this release, free text.
        class_names: at least two; a record's label is an index into it.
        image_mode: ``"L"``, the only mode.
        task: ``"classification"``.
        parent: digest of the release this one was made from, or None.
        changes: what an update changed, written to ``changes.json``; see :mod:`medmark.components.poisoning.update`.
        rejected: private file for what :meth:`reject` gets, outside the release, which only says how many there are. None:
            nothing can be rejected.

    Raises:
        MedmarkError: the directory is not empty, ``rejected`` exists or lies in it; on :meth:`add`, a duplicate id, a label
            out of range, an unknown split, or a patient in two splits.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        name: str,
        version: str,
        class_names: list[str],
        image_mode: str = "L",
        task: str = "classification",
        parent: str | None = None,
        changes: dict | None = None,
        rejected: str | Path | None = None,
    ):
        self.path = Path(path)
        self._changes = changes
        self._rejected_file = Path(rejected) if rejected is not None else None
        if self._rejected_file is not None:
            _check_private(self._rejected_file, self.path)
        if self.path.exists() and any(self.path.iterdir()):
            raise MedmarkError(f"not empty: {self.path}; choose a new folder for the release or empty this one")
        if len(class_names) < 2:
            raise MedmarkError(
                f"fewer than 2 classes: {class_names}; a classifier needs at least two, add the other class"
            )
        self.header = {
            "schema_version": SCHEMA_VERSION,
            "name": name,
            "version": version,
            "class_names": list(class_names),
            "image_mode": image_mode,
            "task": task,
            "parent": parent,
        }
        self._ids: set[str] = set()
        self._split_of: dict[str, str] = {}
        self._counts: Counter = Counter()
        self._shards: list[dict] = []
        self._rejected: list[dict] = []
        self._rows: list[dict] = []
        self._rows_bytes = 0
        self._shard_bytes = 0
        self._file: pq.ParquetWriter | None = None

    @classmethod
    def child(
        cls, path: str | Path, parent: Release, *, version: str, changes: dict[str, Any] | None = None
    ) -> ReleaseWriter:
        """A writer of a release that was made from another, with its name and classes; arguments as of the class."""
        return cls(
            path,
            name=parent.name,
            version=version,
            class_names=parent.class_names,
            image_mode=parent.image_mode,
            task=parent.task,
            parent=parent.digest,
            changes=changes,
        )

    def __enter__(self) -> ReleaseWriter:
        (self.path / "shards").mkdir(parents=True, exist_ok=True)
        return self

    def add(self, record: Record) -> None:
        """Appends one record; records keep the order in which they are added."""
        self._note(record)
        self._rows.append(asdict(record))
        self._rows_bytes += len(record.image)
        if self._rows_bytes >= ROW_GROUP_BYTES:
            self._flush()
        if self._shard_bytes >= SHARD_BYTES:
            self._close_shard()

    def add_shard(self, release: Release, file: str) -> None:
        """Appends a shard of another release as it is, without decoding an image.

        Raises:
            MedmarkError: the shard is not as that release says, or :meth:`add` would refuse one of its records.
        """
        self._close_shard()
        rows = 0
        for record in release.records(columns=["image_id", "label", "patient_id", "split"], shard=file):
            self._note(record)
            rows += 1
        target = f"shards/part-{len(self._shards):05d}.parquet"
        shutil.copyfile(release.path / file, self.path / target)
        stated = {name: sha256 for name, sha256, _ in release.shards}[file]
        if file_sha256(self.path / target) != stated:
            raise MedmarkError(f"shard changed: {release.path / file}; get the release again")
        self._shards.append({"file": target, "rows": rows, "sha256": stated})

    def end_shard(self) -> None:
        """What is added from here on goes into another shard."""
        self._close_shard()

    def _note(self, record: Record) -> None:
        """Checks a record's fields and counts it."""
        classes = self.header["class_names"]
        if not IMAGE_ID.fullmatch(record.image_id):
            raise MedmarkError(
                f"bad image id: {record.image_id!r}; use letters, digits, '.', '_' and '-' only, at most 128"
            )
        if record.image_id in self._ids:
            raise MedmarkError(f"duplicate image id: {record.image_id}; remove one of the two images or rename it")
        if not 0 <= record.label < len(classes):
            raise MedmarkError(
                f"label out of range: {record.label} of {record.image_id}; there are {len(classes)} classes"
            )
        if record.split not in SPLITS:
            raise MedmarkError(f"unknown split: {record.split!r} of {record.image_id}; use one of {', '.join(SPLITS)}")
        known = self._split_of.setdefault(record.patient_id, record.split)
        if known != record.split:
            raise MedmarkError(
                f"patient in two splits: {record.patient_id} is in {known} and, with {record.image_id}, in {record.split};"
                " move all images of a patient to one split"
            )
        self._ids.add(record.image_id)
        self._counts[(record.split, classes[record.label])] += 1

    def reject(self, source: str, reason: str) -> None:
        """Puts a source that could not be taken into quarantine, with the reason; both are private.

        Raises:
            MedmarkError: there is no file for them.
        """
        if self._rejected_file is None:
            raise MedmarkError(f"cannot be taken: {source} ({reason}); name a private file for what is set aside")
        self._rejected.append({"source": source, "reason": reason})

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._file is None:
            shard = self.path / "shards" / f"part-{len(self._shards):05d}.parquet"
            self._shards.append({"file": f"shards/{shard.name}", "rows": 0})
            self._file = pq.ParquetWriter(shard, ARROW_SCHEMA, compression="zstd", use_dictionary=False)
        self._file.write_table(pa.Table.from_pylist(self._rows, schema=ARROW_SCHEMA))
        self._shards[-1]["rows"] += len(self._rows)
        self._shard_bytes += self._rows_bytes
        self._rows, self._rows_bytes = [], 0

    def _close_shard(self) -> None:
        self._flush()
        if self._file is not None:
            self._file.close()
            self._file = None
            self._shard_bytes = 0
            self._shards[-1]["sha256"] = file_sha256(self.path / self._shards[-1]["file"])

    def __exit__(self, kind, value, traceback) -> None:
        if kind is not None:
            if self._file is not None:
                self._file.close()
            return
        self._close_shard()
        counts: dict[str, dict[str, int]] = {}
        for split in SPLITS:
            counts[split] = {name: self._counts[(split, name)] for name in self.header["class_names"]}
        manifest = {**self.header, "counts": counts, "images": len(self._ids), "shards": self._shards}
        manifest["rejected"] = None
        if self._rejected:
            _write_private(self._rejected_file, pa.Table.from_pylist(self._rejected))
            manifest["rejected"] = {"rows": len(self._rejected)}
        if self._changes is not None:
            (self.path / "changes.json").write_bytes(canonical_json(self._changes))
            manifest["changes"] = {"file": "changes.json", "sha256": file_sha256(self.path / "changes.json")}
        write_atomic(self.path / "release.json", canonical_json(manifest))


class Release:
    """A complete release on disk.

    Args:
        path: its directory.

    Attributes:
        digest: SHA-256 of ``release.json``, hex.
        name, version, class_names, image_mode, task, parent: as written.
        schema_version: 2; 1 is read as well: its ids hold file names, and it may hold ``rejected.parquet``.
        counts: ``{split: {class name: images}}``.
        rejected: None, or how many were set aside: ``rows``; in version 1 also ``file`` and ``sha256``.
        changes: None, or what ``release.json`` says of ``changes.json``: ``file`` and ``sha256``.

    Raises:
        MedmarkError: there is no ``release.json`` or it is not a release's.
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
                    f"unknown schema version {version!r}: {manifest_path}; this medmark reads 1 and {SCHEMA_VERSION}"
                )
            self.schema_version = version
            self.name = str(manifest["name"])
            self.version = str(manifest["version"])
            self.class_names = [str(name) for name in manifest["class_names"]]
            self.image_mode = str(manifest["image_mode"])
            self.task = str(manifest["task"])
            self.parent = manifest["parent"]
            self.counts = {split: {c: int(manifest["counts"][split][c]) for c in self.class_names} for split in SPLITS}
            self.shards = [(str(s["file"]), str(s["sha256"]), int(s["rows"])) for s in manifest["shards"]]
            self.rejected = manifest["rejected"]
            if version > 1 and self.rejected is not None and set(self.rejected) != {"rows"}:
                raise ValueError("it says more of what was set aside than how much")
            self.changes = manifest.get("changes")  # not there before the first update
            self._images = int(manifest["images"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise MedmarkError(f"damaged release.json: {manifest_path} ({error!r}); get the release again") from error
        for file, _, _ in self.shards:
            if not re.fullmatch(r"shards/part-\d{5}\.parquet", file):
                raise MedmarkError(f"shard outside the release: {file!r} in {manifest_path}; get the release again")
        self.digest = hashlib.sha256(raw).hexdigest()

    def __len__(self) -> int:
        return self._images

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
        wanted = list(columns) if columns is not None else list(ARROW_SCHEMA.names)
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
        for record in self.records(columns=["image_id", "image", "label", "split", "sha256"]):
            if hashlib.sha256(record.image).hexdigest() != record.sha256:
                raise MedmarkError(
                    f"image does not match its digest: {record.image_id} in {self.path}; get the release again"
                )
            if not 0 <= record.label < len(self.class_names):
                raise MedmarkError(
                    f"label out of range: {record.label} of {record.image_id} in {self.path}; get it again"
                )
            counts[(record.split, self.class_names[record.label])] += 1
        stated = {(split, name): n for split, by_class in self.counts.items() for name, n in by_class.items() if n}
        if dict(counts) != stated:
            raise MedmarkError(f"counts do not match release.json: {self.path}; get the release again")

    def read_changes(self) -> dict | None:
        """Content of ``changes.json``, checked against its digest; None if this release is no update.

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
        """Index of a class name.

        Raises:
            MedmarkError: there is no such class.
        """
        if name not in self.class_names:
            raise MedmarkError(f"unknown class: {name!r} in {self.path}; use one of {', '.join(self.class_names)}")
        return self.class_names.index(name)


def refuse_names(release: Release, what: str) -> None:
    """Refuses a release of schema version 1, whose ids hold file names.

    Args:
        release: any.
        what: cannot be done with it, for the message.

    Raises:
        MedmarkError: it is of version 1.
    """
    if release.schema_version == 1:
        raise MedmarkError(
            f"image ids hold file names: {release.path} is of schema version 1 and cannot be {what}; give it new ids with"
            " 'medmark reissue', or, unmarked, ingest the raw images again"
        )


def _check_private(file: Path, release: Path) -> None:
    """Refuses a file for names of sources that would be published or overwrite another."""
    if file.resolve().is_relative_to(release.resolve()):
        raise MedmarkError(f"names of sources would be public: {file} lies in the release; name a file outside of it")
    if os.path.lexists(file):
        raise MedmarkError(f"exists: {file}; move it away or name another file for what is set aside")


def _write_private(file: Path, table: pa.Table) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            pq.write_table(table, stream, compression="zstd")
    except OSError as error:
        raise cannot_write(file, error, "name another file") from error
