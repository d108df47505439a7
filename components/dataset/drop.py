"""A raw drop against the release before it: which images were added, changed or withdrawn.

A drop is what ingest takes: a folder per class, a CSV, or an ingested release. It holds added and changed images; what it
does not mention stays. An image is the one of the same name, so a drop must keep the folders of the first source. A file with
the bytes it had before is not decoded. ``withdrawn.csv`` in the drop's folder takes images out, see
:mod:`medmark.components.dataset.tombstones`.

Pixels that were published under one name are refused under another, for ever: one of the two might be marked and the other not.
Only exactly the same pixels are known again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from medmark.components.base.digests import canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.base.progress import track
from medmark.components.dataset.codecs import decode_file, decode_png
from medmark.components.dataset.ingest import in_order_of_ids, make_record
from medmark.components.dataset.items import SourceImage
from medmark.components.dataset.origin import REJECTED, Origin, drop_digest, write_origins
from medmark.components.dataset.previous import Previous
from medmark.components.dataset.pseudonyms import image_id
from medmark.components.dataset.release import SPLITS, Record, Release, refuse_names, refuse_task, with_pixels
from medmark.components.dataset.release_copy import check_display
from medmark.components.dataset.release_writer import ReleaseWriter
from medmark.components.dataset.sources import SourceOptions, list_items, sift, source_table
from medmark.components.dataset.tombstones import WITHDRAWN, Withdrawal, buried, read_withdrawal

SHARES = (0.7, 0.1, 0.2)  # of train, val and test among new patients; as ingest
CHANGES = ("added", "changed", "withdrawn", "held_back_changed", "held_back_withdrawn")  # lists of drop.json
# in rejected.parquet, which is kept: a withdrawn image is named nowhere but among the tombstones
SET_ASIDE = "(withdrawn)"


@dataclass(frozen=True)
class _Arrival:
    """A file or a record that the drop brings and that can be taken.

    Attributes:
        name: what messages and quarantine call it.
        origin: where it comes from.
        record: the image; None where it is as it was, and for the CSV.
    """

    name: str
    origin: Origin
    record: Record | None = None


@dataclass(frozen=True)
class _Refusal:
    """A file or a record that the drop brings and that cannot be taken, with the reason and the remedy."""

    name: str
    problem: str


@dataclass
class _Found:
    """What is known of the drop so far: origins of what was taken, and what became of the images, by id."""

    taken: list[Origin]
    kinds: dict[str, str] = field(default_factory=dict)
    unchanged: int = 0
    held_back_changed: set[str] = field(default_factory=set)

    def of_kind(self, wanted: str) -> list[str]:
        return sorted(image for image, kind in self.kinds.items() if kind == wanted)


def read_drop(
    source: str | Path,
    release_dir: str | Path,
    origin_dir: str | Path,
    out: str | Path,
    *,
    label_column: str | None = None,
    path_column: str | None = None,
    patient_column: str | None = None,
    patient_pattern: str | None = None,
    where: dict[str, str] | None = None,
    root: str | Path | None = None,
    uncertain: str = "ignore",
    quarantine: bool = False,
) -> dict[str, Any]:
    """Finds out what a drop changes, decoding only that.

    A new patient gets a split by a keyed digest of the pseudonym; a known one keeps the split.

    Args:
        source: the drop.
        release_dir: the previous marked release.
        origin_dir: where its images came from, see :mod:`medmark.components.dataset.origin`.
        out: folder to make; private. Gets ``images/``, a release of the added and changed images without marks,
            ``drop.json``, ``origins/`` and, with what was set aside, ``rejected.parquet``.
        label_column, path_column, patient_column, patient_pattern, where, root, uncertain: how to read the source, see
            :class:`medmark.components.dataset.sources.SourceOptions`; patients must be told as they were at first.
        quarantine: set aside what cannot be used, with the reason, instead of refusing.

    Returns:
        The content of ``drop.json``: ``drop`` (digest of the drop), ``files``, ``added``, ``changed`` and ``withdrawn`` (sorted
        image ids), ``held_back_changed`` (other pixels) and ``held_back_withdrawn`` (sorted ids that were never published),
        ``unchanged`` and ``rejected`` (counts). The digest is public, so it is keyed and also covers the SHA-256 of
        the private ``sources.parquet``: a drop may be one image, and a guess of its file could else be confirmed and show that
        it went out unmarked.

    Raises:
        MedmarkError: ingest would refuse the drop; an image was withdrawn before, comes in twice under two names, or is both
            withdrawn and brought by the drop; or a withdrawal names what is not there.
    """
    source, out = Path(source), Path(out)
    release = Release(release_dir)
    refuse_names(release, "updated")
    refuse_task(release, "classification")
    classes = release.class_names
    # a column of CheXpert's findings names its two classes itself, see chexpert.py
    finding = sorted(classes) == sorted({str(label_column), f"no_{label_column}"})
    given = None if finding else classes
    options = SourceOptions(
        label_column, path_column, patient_column, patient_pattern, where or {}, root, uncertain, given
    )
    before = Previous.read(release, origin_dir)
    withdrawal = read_withdrawal(source, before)
    found = _Found([Origin(None, WITHDRAWN, file_sha256(withdrawal.file), None)] if withdrawal.file else [])
    if (source / "release.json").is_file():
        incoming = _from_release(source, before)
    else:
        incoming = _from_files(source, before, options, quarantine, may_be_empty=withdrawal.file is not None)
    with ReleaseWriter(
        out / "images",
        name=release.name,
        version="drop",
        class_names=classes,
        parent=release.digest,
        rejected=out / REJECTED,
    ) as writer:
        for arrival in incoming:
            _take(arrival, before, withdrawal, found, writer, quarantine)
    return _write_drop(out, found, before, withdrawal, Path(origin_dir))


def _take(
    arrival: _Arrival | _Refusal,
    before: Previous,
    withdrawal: Withdrawal,
    found: _Found,
    writer: ReleaseWriter,
    quarantine: bool,
) -> None:
    """Takes what the drop brings if nothing stands against it, else refuses it or sets it aside."""
    if isinstance(arrival, _Refusal):
        _refuse(arrival, writer, quarantine)
        return
    record, origin = arrival.record, arrival.origin
    if reason := buried(record, origin, before, withdrawal):
        if not quarantine:
            raise MedmarkError(f"{reason} (or run with --quarantine)")
        writer.reject(SET_ASIDE, "withdrawn")
        return
    if record is None:
        found.unchanged += origin.image_id is not None  # not the CSV
        found.taken.append(origin)
        return
    of_held_back = record.image_id in before.held_back or record.patient_id in before.held_back_patients
    if of_held_back and record.image_id not in before.records:
        known = before.origins.get(record.image_id)
        if known is not None and known.image_sha256 != record.sha256:
            found.held_back_changed.add(record.image_id)
        found.taken.append(origin)
        return
    if problem := _seen_elsewhere(record, before):
        _refuse(_Refusal(arrival.name, problem), writer, quarantine)
        return
    found.taken.append(origin)
    kind = _kind(record, before)
    if kind is None:
        found.unchanged += 1
        return
    before.by_pixels[record.sha256] = record.image_id
    found.kinds[record.image_id] = kind
    writer.add(record)


def _refuse(refusal: _Refusal, writer: ReleaseWriter, quarantine: bool) -> None:
    if not quarantine:
        raise MedmarkError(f"{' '.join(refusal.problem.split())} (or run with --quarantine)")
    writer.reject(refusal.name, refusal.problem)


def _write_drop(out: Path, found: _Found, before: Previous, withdrawal: Withdrawal, origin_dir: Path) -> dict[str, Any]:
    """Writes ``drop.json`` and ``origins/``; returns the content of ``drop.json``."""
    images = Release(out / "images")
    kept = Origin(None, "", file_sha256(origin_dir / "sources.parquet"), None)
    drop = {
        "drop": drop_digest([*found.taken, kept], before.patient_key),
        "files": len(found.taken),
        "added": found.of_kind("added"),
        "changed": found.of_kind("changed"),
        "withdrawn": sorted(withdrawal.image_ids),
        "held_back_changed": sorted(found.held_back_changed),
        "held_back_withdrawn": sorted(withdrawal.held_back),
        "unchanged": found.unchanged,
        "rejected": images.rejected["rows"] if images.rejected else 0,
    }
    origins = [origin for origin in found.taken if origin.image_id in found.kinds.keys() | found.held_back_changed]
    write_origins(out / "origins", origins, patient_key=before.patient_key)
    (out / "drop.json").write_bytes(canonical_json(drop))
    return drop


def _from_files(
    source: Path, before: Previous, options: SourceOptions, quarantine: bool, *, may_be_empty: bool
) -> Iterator[_Arrival | _Refusal]:
    """Reads a drop of raw files."""
    if may_be_empty and source.is_dir() and all(p.name == WITHDRAWN or p.name[0] == "." for p in source.iterdir()):
        return
    key = before.patient_key
    if key is None:
        raise MedmarkError(
            f"{before.release.path} was made from an ingested release, whose pseudonyms were made elsewhere; ingest {source}"
            " with the same --patients and give the release that comes out"
        )
    items = list_items(source, options)
    table = source_table(source, options)
    if table is not None:
        yield _Arrival(table.name, Origin.of_table(table))
    if not items and not may_be_empty:
        raise MedmarkError(f"no image in {source}; give the folder, CSV or release with the new images")
    images, rejected = sift(items, quarantine)
    for name, reason in rejected:
        yield _Refusal(name, reason)
    for image in track(in_order_of_ids(images, key), "reading the drop"):
        yield _from_file(image, before, key)


def _from_file(image: SourceImage, before: Previous, key: str) -> _Arrival | _Refusal:
    """Reads one raw file, and decodes it unless it is as it was."""
    classes = before.release.class_names
    if image.label not in classes:
        return _Refusal(image.name, f"unknown class {image.label!r}: {image.name}; use one of {', '.join(classes)}")
    identity, patient = image_id(image.name, key), before.pseudonym(image.patient)
    known = before.records.get(identity)
    raw = file_sha256(image.path) if image.path.is_file() else ""
    same = identity in before.held_back
    if known is not None:
        same = (known.label, known.patient_id) == (classes.index(image.label), patient)
    if same and before.origins[identity].sha256 == raw:
        return _Arrival(image.name, before.origins[identity])
    split = before.split_of.get(patient) or image.split or _split(patient, key)
    if image.split is not None and image.split != split:
        problem = f"patient in two splits: {image.name} is in {image.split}, other images of the patient are in {split}"
        return _Refusal(image.name, f"{problem}; move them to one split")
    before.split_of[patient] = split
    try:
        decoded = decode_file(image.path)
    except MedmarkError as error:
        return _Refusal(image.name, str(error))
    record = replace(make_record(image, decoded, classes, split, key), patient_id=patient)
    return _Arrival(image.name, Origin(identity, image.name, raw, record.sha256), record)


def _from_release(source: Path, before: Previous) -> Iterator[_Arrival | _Refusal]:
    """Reads a drop that was ingested, with the same key of the pseudonyms."""
    if before.patient_key is not None:
        raise MedmarkError(
            f"{before.release.path} was made from raw images, and {source} has pseudonyms of another key; give the raw"
            " images"
        )
    given = Release(source)
    refuse_names(given, "taken as a drop")
    given.verify()
    if given.class_names != before.release.class_names:
        raise MedmarkError(
            f"other classes: {source} has {given.class_names}, {before.release.path} has others; ingest anew"
        )
    for record in given.records():
        known = before.records.get(record.image_id)
        if known and before.origins[record.image_id].sha256 == record.sha256 and _same_fields(known, record):
            yield _Arrival(record.image_id, before.origins[record.image_id])
            continue
        try:
            # a marked image is encoded anew: with another encoder its size would tell it from the others
            encoded = with_pixels(record, decode_png(record.image))
            check_display(record, given)
        except MedmarkError as error:
            yield _Refusal(record.image_id, f"{error}: {record.image_id} in {source}")
            continue
        split = before.split_of.setdefault(record.patient_id, record.split)
        made = replace(encoded, split=split)
        origin = Origin(record.image_id, record.image_id, record.sha256, made.sha256)
        yield _Arrival(record.image_id, origin, made)


def _same_fields(known: Record, record: Record) -> bool:
    return all(getattr(known, name) == getattr(record, name) for name in ("label", "patient_id", "bits", "dicom"))


def _split(patient: str, key: str) -> str:
    """Returns the split of a new patient: the same whenever the patient comes in."""
    digest = hashlib.blake2b(patient.encode(), key=key.encode(), person=b"medmark-split").digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return SPLITS[min(2, int(np.searchsorted(np.cumsum(SHARES), place, side="right")))]


def _kind(record: Record, before: Previous) -> str | None:
    """Returns ``added``, ``changed``, or None if only the file's bytes are others."""
    known = before.records.get(record.image_id)
    if known is None:
        return "added"
    same = before.origins[record.image_id].image_sha256 == record.sha256
    return None if same and _same_fields(known, record) else "changed"


def _seen_elsewhere(record: Record, before: Previous) -> str | None:
    """Says why an image cannot be taken whose pixels are, or were, another's, with the remedy; None if it can."""
    own = before.origins.get(record.image_id)
    if own is not None and own.image_sha256 == record.sha256:
        return None
    other = before.by_pixels.get(record.sha256) or before.was(record.sha256, None)
    if other is None or other == record.image_id:
        return None
    # one of the two might be marked and the other not, and their difference would show the mark
    return f"same image twice: {record.image_id} has the pixels of {other}; remove one of the two"
