"""Writing a release, see :mod:`medmark.components.dataset.release` for the format.

Use it so::

    with ReleaseWriter(path, name="cxr", version="1", class_names=["normal", "pneumonia"]) as writer:
        writer.add(Record(...))
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from medmark.components.base.atomic import write_atomic
from medmark.components.base.digests import canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError, cannot_write
from medmark.components.dataset.release import (
    IMAGE_ID,
    IMAGE_MODES,
    LESION_SCHEMA_VERSION,
    MASKED_SCHEMA_VERSION,
    SCHEMA_VERSION,
    SPLITS,
    TASKS,
    Record,
    Release,
    arrow_schema,
)

SHARD_BYTES = 64 * 1024**2  # ours: images of a shard, before compression
ROW_GROUP_BYTES = 8 * 1024**2  # arbitrary: what a reader holds in memory at a time


class ReleaseWriter:
    """Writes a release; use as a context manager.

    ``release.json`` appears only when the block ends without an exception, so a crash leaves no half release behind
    that a reader would accept.

    Args:
        path: directory to make; must be empty or absent.
        name: name of the data set.
        version: version of this release, free text.
        class_names: at least two; a record's label is an index into it.
        image_mode: ``"L"`` or ``"RGB"``.
        task: ``"classification"``; ``"segmentation"`` if every record has a mask.
        lesions: whether records for classification may have masks of their lesions.
        parent: parent digest: that of the release this one was made from, or None.
        changes: what an update changed, written to ``changes.json``; see :mod:`medmark.components.poisoning.update`.
        rejected: private file for what :meth:`reject` gets, outside the release, which only says how many there are. None:
            nothing can be rejected.

    Raises:
        MedmarkError: the directory is not empty, ``rejected`` exists or is inside it; on :meth:`add`, a duplicate id, a label
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
        lesions: bool = False,
        parent: str | None = None,
        changes: dict[str, Any] | None = None,
        rejected: str | Path | None = None,
    ) -> None:
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
        self._class_names = list(class_names)
        if task not in TASKS or image_mode not in IMAGE_MODES or (lesions and task != "classification"):
            raise MedmarkError(f"{image_mode} images for {task}, lesions {lesions}: no release can hold them")
        self._schema = arrow_schema(task, lesions)
        self._every_mask = task == "segmentation"
        version_of = {"classification": SCHEMA_VERSION, "segmentation": MASKED_SCHEMA_VERSION}[task]
        special = task == "classification" and (lesions or image_mode == "RGB")
        self._header: dict[str, Any] = {
            "schema_version": LESION_SCHEMA_VERSION if special else version_of,
            "name": name,
            "version": version,
            "class_names": self._class_names,
            "image_mode": image_mode,
            "task": task,
            "parent": parent,
            **({"lesions": lesions} if special else {}),
        }
        self._ids: set[str] = set()
        self._split_of: dict[str, str] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._shards: list[dict[str, Any]] = []
        self._rejected: list[dict[str, str]] = []
        self._rows: list[dict[str, Any]] = []
        self._rows_bytes = 0
        self._shard_bytes = 0
        self._file: pq.ParquetWriter | None = None

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Images added so far, by split and class."""
        return {split: {name: self._counts[(split, name)] for name in self._class_names} for split in SPLITS}

    @classmethod
    def child(
        cls,
        path: str | Path,
        parent: Release,
        *,
        version: str,
        changes: dict[str, Any] | None = None,
        lesions: bool | None = None,
    ) -> ReleaseWriter:
        """Makes the writer of a release that comes from another, with its name and classes; arguments as of the class.

        ``lesions`` is that of the other release when None.
        """
        return cls(
            path,
            name=parent.name,
            version=version,
            class_names=parent.class_names,
            image_mode=parent.image_mode,
            task=parent.task,
            lesions=parent.lesions if lesions is None else lesions,
            parent=parent.digest,
            changes=changes,
        )

    def __enter__(self) -> ReleaseWriter:
        (self.path / "shards").mkdir(parents=True, exist_ok=True)
        return self

    def add(self, record: Record) -> None:
        """Appends one record; records keep the order in which they are added."""
        self._note(record)
        if self._every_mask if record.mask is None else "mask" not in self._schema.names:
            raise MedmarkError(
                f"{'no ' * (record.mask is None)}mask: {record.image_id}; masks go with all images for segmentation, and with none"
                " for classification but of lesions"
            )
        self._rows.append({name: value for name, value in asdict(record).items() if name in self._schema.names})
        self._rows_bytes += len(record.image) + len(record.mask or b"")
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
        stated = {shard.file: shard.sha256 for shard in release.shards}[file]
        if file_sha256(self.path / target) != stated:
            raise MedmarkError(f"shard changed: {release.path / file}; get the release again")
        self._shards.append({"file": target, "rows": rows, "sha256": stated})

    def end_shard(self) -> None:
        """Puts what is added from here on into another shard."""
        self._close_shard()

    def _note(self, record: Record) -> None:
        """Checks a record's fields and counts it."""
        classes = self._class_names
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
        """Puts an image that cannot be taken into quarantine.

        Args:
            source: name of the image in the source; private.
            reason: why it is not taken; private.

        Raises:
            MedmarkError: the writer has no file for what is set aside.
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
            self._file = pq.ParquetWriter(shard, self._schema, compression="zstd", use_dictionary=False)
        self._file.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
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

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            if self._file is not None:
                self._file.close()
            return
        self._close_shard()
        manifest = {**self._header, "counts": self.counts, "images": len(self._ids), "shards": self._shards}
        manifest["rejected"] = None
        if self._rejected and self._rejected_file is not None:
            _write_private(self._rejected_file, pa.Table.from_pylist(self._rejected))
            manifest["rejected"] = {"rows": len(self._rejected)}
        if self._changes is not None:
            (self.path / "changes.json").write_bytes(canonical_json(self._changes))
            manifest["changes"] = {"file": "changes.json", "sha256": file_sha256(self.path / "changes.json")}
        write_atomic(self.path / "release.json", canonical_json(manifest))


def _check_private(file: Path, release: Path) -> None:
    """Refuses a file for names of sources that would be published or overwrite another."""
    if file.resolve().is_relative_to(release.resolve()):
        raise MedmarkError(f"names of sources would be public: {file} is inside the release; name a file outside of it")
    if os.path.lexists(file):
        raise MedmarkError(f"exists: {file}; move it away or name another file for what is set aside")


def _write_private(file: Path, table: pa.Table) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            pq.write_table(table, stream, compression="zstd")
    except OSError as error:
        raise cannot_write(file, error, "name another file") from error
