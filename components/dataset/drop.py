"""A raw drop against the release before it: which images were added, changed or withdrawn.

A drop is what ingest takes: a folder per class, a CSV, or an ingested release. It holds added and changed images; what it
does not mention stays. An image is the one of the same name, so a drop must keep the folders of the first source. A file with
the bytes it had before is not decoded. ``withdrawn.csv`` in the drop's folder, with a column ``path`` or ``patient_id``, takes
images out, or all of a patient.

Pixels that were published under one name are refused under another, for ever: one of the two might be marked and the other not.
Only exactly the same pixels are known again.
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from medmark.components.base.digests import canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.base.progress import track
from medmark.components.dataset.codecs import decode_file, decode_png
from medmark.components.dataset.ingest import (
    check_display,
    in_order_of_ids,
    list_items,
    make_record,
    sift,
    source_table,
)
from medmark.components.dataset.origin import (
    REJECTED,
    Former,
    Origin,
    drop_digest,
    past_digest,
    read_former,
    read_origins,
    read_past,
    read_patient_key,
    write_origins,
)
from medmark.components.dataset.release import SPLITS, Record, Release, ReleaseWriter, refuse_names, with_pixels
from medmark.components.dataset.sources import WITHDRAWN, image_id, pseudonym

SHARES = (0.7, 0.1, 0.2)  # of train, val and test among new patients; as ingest
INDEX = ["image_id", "label", "patient_id", "split", "bits", "dicom"]
SET_ASIDE = (
    "(withdrawn)"  # in rejected.parquet, which is kept: a withdrawn image is named nowhere but among the tombstones
)


@dataclass
class _Before:
    """The previous release and where its images came from."""

    release: Release
    patient_key: str | None
    origins: dict[str, Origin]
    records: dict[str, Record]
    split_of: dict[str, str]
    tombstones: set[str]
    past: dict[str, str | None]
    by_pixels: dict[str, str]
    former: Former | None

    @classmethod
    def read(cls, release: Release, origin_dir: str | Path) -> _Before:
        origins = {origin.image_id: origin for origin in read_origins(origin_dir) if origin.image_id}
        records = {record.image_id: record for record in release.records(columns=INDEX)}
        if set(origins) != set(records):
            raise MedmarkError(f"{origin_dir} is not of {release.path}; give the folders that one run made")
        return cls(
            release,
            read_patient_key(origin_dir),
            origins,
            records,
            {record.patient_id: record.split for record in records.values()},
            set((release.read_changes() or {"tombstones": []})["tombstones"]),
            read_past(origin_dir),
            {origin.image_sha256: image_id for image_id, origin in origins.items()},
            read_former(origin_dir),
        )

    def pseudonym(self, patient: str) -> str:
        """The patient's name in the release; of a run whose ids were made anew, a pseudonym of the former one."""
        return pseudonym(self.former.patient(patient) if self.former else patient, self.patient_key)

    def was(self, image_sha256: str, otherwise: str | None) -> str | None:
        """Which image once had these pixels, None if that one was withdrawn; ``otherwise`` if none had."""
        for key in [self.patient_key] + ([self.former.key] if self.former else []):
            digest = past_digest(image_sha256, key)
            if digest in self.past:
                return self.past[digest]
        return otherwise


@dataclass
class _Withdrawal:
    """What ``withdrawn.csv`` takes out."""

    file: Path | None = None
    image_ids: set[str] = field(default_factory=set)
    patients: set[str] = field(default_factory=set)


def read_drop(
    source: str | Path,
    release_dir: str | Path,
    origin_dir: str | Path,
    out: str | Path,
    *,
    label_column: str | None = None,
    path_column: str | None = None,
    patient_column: str | None = None,
    where: dict[str, str] | None = None,
    root: str | Path | None = None,
    uncertain: str = "ignore",
    quarantine: bool = False,
) -> dict:
    """Finds out what a drop changes, decoding only that.

    New patients get a split by a keyed digest of their pseudonym; known ones keep theirs.

    Args:
        source: the drop.
        release_dir: the previous marked release.
        origin_dir: where its images came from, see :mod:`medmark.components.dataset.origin`.
        out: folder to make; private. Gets ``images/``, a release of the added and changed images without marks,
            ``drop.json``, ``origins/`` and, with what was set aside, ``rejected.parquet``.
        label_column, path_column, patient_column, where, root, uncertain, quarantine: as in
            :func:`medmark.components.dataset.ingest.ingest`.

    Returns:
        The content of ``drop.json``: ``drop`` (digest of the drop), ``files``, ``added``, ``changed`` and ``withdrawn`` (sorted
        image ids), ``unchanged`` and ``rejected`` (counts). The digest is public, so it is keyed and also covers the SHA-256 of the private
        ``sources.parquet``: a drop may be one image, and whoever can guess the file could else learn that it went out unmarked.

    Raises:
        MedmarkError: what ingest refuses; an image that was withdrawn before, that comes in twice under two names, or that
            the drop withdraws and brings; a withdrawal of what is not there.
    """
    source, out = Path(source), Path(out)
    release = Release(release_dir)
    refuse_names(release, "updated")
    before = _Before.read(release, origin_dir)
    withdrawal = _read_withdrawal(source, before)
    taken = [Origin(None, WITHDRAWN, file_sha256(withdrawal.file), None)] if withdrawal.file else []
    kinds: dict[str, str] = {}
    unchanged = 0
    classes = before.release.class_names
    with ReleaseWriter(
        out / "images",
        name=before.release.name,
        version="drop",
        class_names=classes,
        parent=before.release.digest,
        rejected=out / REJECTED,
    ) as writer:
        # a column of CheXpert's findings names its two classes itself, see read_csv
        finding = sorted(classes) == sorted({str(label_column), f"no_{label_column}"})
        given = None if finding else classes
        options = (label_column, path_column, patient_column, where or {}, root, uncertain, given)
        incoming = _from_release if (source / "release.json").is_file() else _from_files
        for record, origin, name, problem in incoming(source, before, options, quarantine, bool(withdrawal.file)):
            buried = problem is None and _buried(record, origin, before, withdrawal)
            if buried:
                if not quarantine:
                    raise MedmarkError(f"{buried} (or run with --quarantine)")
                writer.reject(SET_ASIDE, "withdrawn")
                continue
            if problem is None and record is None:
                unchanged += origin.image_id is not None  # not the CSV
                taken.append(origin)
                continue
            problem = problem or _seen_elsewhere(record, before)
            if problem is not None:
                if not quarantine:
                    raise MedmarkError(f"{' '.join(problem.split())} (or run with --quarantine)")
                writer.reject(name, problem)
                continue
            taken.append(origin)
            kind = _kind(record, before)
            if kind is None:
                unchanged += 1
                continue
            before.by_pixels[record.sha256] = record.image_id
            kinds[record.image_id] = kind
            writer.add(record)
    images = Release(out / "images")
    kept = Origin(None, "", file_sha256(Path(origin_dir) / "sources.parquet"), None)
    drop = {
        "drop": drop_digest([*taken, kept], before.patient_key),
        "files": len(taken),
        "added": sorted(i for i, kind in kinds.items() if kind == "added"),
        "changed": sorted(i for i, kind in kinds.items() if kind == "changed"),
        "withdrawn": sorted(withdrawal.image_ids),
        "unchanged": unchanged,
        "rejected": images.rejected["rows"] if images.rejected else 0,
    }
    write_origins(out / "origins", [o for o in taken if o.image_id in kinds], patient_key=before.patient_key)
    (out / "drop.json").write_bytes(canonical_json(drop))
    return drop


def _from_files(source: Path, before: _Before, options: tuple, quarantine: bool, may_be_empty: bool):
    """Record, origin, name and problem of each raw file; no record where the file is as it was."""
    if may_be_empty and source.is_dir() and all(p.name == WITHDRAWN or p.name[0] == "." for p in source.iterdir()):
        return
    key = before.patient_key
    if key is None:
        raise MedmarkError(
            f"{before.release.path} was made from an ingested release, whose pseudonyms were made elsewhere; ingest {source}"
            " with the same --patients and give the release that comes out"
        )
    label_column, _, _, where, *_ = options
    items = list(list_items(source, *options))
    table = source_table(source, label_column, where)
    if table is not None:
        yield None, Origin.of_table(table), table.name, None
    if not items and not may_be_empty:
        raise MedmarkError(f"no image in {source}; give the folder, CSV or release with the new images")
    usable, rejected = sift(items, quarantine)
    for item, reason in rejected:
        yield None, None, item.name, reason
    classes = before.release.class_names
    for item in track(in_order_of_ids(usable, key), "reading the drop"):
        if item.label not in classes:
            yield None, None, item.name, f"unknown class {item.label!r}: {item.name}; use one of {', '.join(classes)}"
            continue
        identity, patient = image_id(item.name, key), before.pseudonym(item.patient)
        known = before.records.get(identity)
        raw = file_sha256(item.path) if item.path.is_file() else ""
        same = known and (known.label, known.patient_id) == (classes.index(item.label), patient)
        if same and before.origins[identity].sha256 == raw:
            yield None, before.origins[identity], item.name, None
            continue
        split = before.split_of.get(patient) or item.split or _split(patient, key)
        if item.split is not None and item.split != split:
            problem = (
                f"patient in two splits: {item.name} is in {item.split}, other images of the patient are in {split}"
            )
            yield None, None, item.name, f"{problem}; move them to one split"
            continue
        before.split_of[patient] = split
        try:
            image = decode_file(item.path)
        except MedmarkError as error:
            yield None, None, item.name, str(error)
            continue
        record = replace(make_record(item, image, classes, split, key), patient_id=patient)
        yield record, Origin(identity, item.name, raw, record.sha256), item.name, None


def _from_release(source: Path, before: _Before, options: tuple, quarantine: bool, may_be_empty: bool):
    """The same for a drop that was ingested, with the same key of the pseudonyms."""
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
            yield None, before.origins[record.image_id], record.image_id, None
            continue
        try:
            # a marked image is encoded anew: with another encoder its size would tell it from the others
            encoded = with_pixels(record, decode_png(record.image))
            check_display(record, given)
        except MedmarkError as error:
            yield None, None, record.image_id, f"{error}: {record.image_id} in {source}"
            continue
        split = before.split_of.setdefault(record.patient_id, record.split)
        made = replace(encoded, split=split)
        yield made, Origin(record.image_id, record.image_id, record.sha256, made.sha256), record.image_id, None


def _same_fields(known: Record, record: Record) -> bool:
    return all(getattr(known, name) == getattr(record, name) for name in ("label", "patient_id", "bits", "dicom"))


def _split(patient: str, key: str) -> str:
    """Split of a new patient: the same whenever the patient comes in."""
    digest = hashlib.blake2b(patient.encode(), key=key.encode(), person=b"medmark-split").digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return SPLITS[min(2, int(np.searchsorted(np.cumsum(SHARES), place, side="right")))]


def _kind(record: Record, before: _Before) -> str | None:
    """``added``, ``changed``, or None if nothing but the file's bytes are others."""
    known = before.records.get(record.image_id)
    if known is None:
        return "added"
    same = before.origins[record.image_id].image_sha256 == record.sha256
    return None if same and _same_fields(known, record) else "changed"


def _buried(record: Record | None, origin: Origin, before: _Before, withdrawal: _Withdrawal) -> str | None:
    """Why an image is not taken that this drop or an earlier one withdrew, with the remedy."""
    if origin.image_id in withdrawal.image_ids:
        return f"withdrawn and brought by one drop: {origin.image_id}; take it out of the drop or of {WITHDRAWN}"
    if origin.image_id in before.tombstones or (before.former and before.former.withdrew(origin.source)):
        return f"withdrawn by an earlier release: {origin.image_id}; leave it out of the drop"
    if record is None:
        return None
    if record.patient_id in withdrawal.patients:
        return f"patient withdrawn by the drop that brings {record.image_id}; take it out of the drop or of {WITHDRAWN}"
    was = before.was(record.sha256, record.image_id)
    if was is None or before.by_pixels.get(record.sha256) in withdrawal.image_ids:
        return f"pixels of an image that was withdrawn: {record.image_id}; leave it out of the drop"
    return None


def _seen_elsewhere(record: Record, before: _Before) -> str | None:
    """Why an image cannot be taken whose pixels are, or were, another's, with the remedy."""
    own = before.origins.get(record.image_id)
    if own is not None and own.image_sha256 == record.sha256:
        return None
    twin = before.by_pixels.get(record.sha256)
    twin = twin or before.was(record.sha256, None)
    if twin is None or twin == record.image_id:
        return None
    # one of the two might be marked and the other not, and their difference would show the mark
    return f"same image twice: {record.image_id} has the pixels of {twin}; remove one of the two"


def _read_withdrawal(source: Path, before: _Before) -> _Withdrawal:
    """Ids and patients that the drop takes out."""
    path = (source if source.is_dir() else source.parent) / WITHDRAWN
    if not path.is_file():
        return _Withdrawal()
    by_patient: dict[str, set[str]] = {}
    for record in before.records.values():
        by_patient.setdefault(record.patient_id, set()).add(record.image_id)
    withdrawal = _Withdrawal(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            table = csv.DictReader(stream, strict=True)
            columns = set(table.fieldnames or [])
            if not {"path", "patient_id"} & columns:
                raise MedmarkError(f"no column path or patient_id: {path}; name one in its first line")
            for row in table:
                name, patient = ((row.get(column) or "").strip() for column in ("path", "patient_id"))
                if not name and not patient:
                    raise MedmarkError(f"empty row: {path}; name a path or a patient_id in every row")
                if name:
                    withdrawal.image_ids |= _of_name(name, before, path)
                if patient:
                    pseudo = before.pseudonym(patient) if before.patient_key is not None else patient
                    if pseudo not in by_patient:
                        raise MedmarkError(
                            f"nothing to withdraw: no image of that patient in {before.release.path}; correct line"
                            f" {table.line_num} of {path}"
                        )
                    withdrawal.patients.add(pseudo)
                    withdrawal.image_ids |= by_patient[pseudo]
    except (OSError, ValueError, csv.Error) as error:
        raise MedmarkError(f"unreadable CSV: {path} ({error}); save it as UTF-8 comma-separated text") from error
    return withdrawal


def _of_name(name: str, before: _Before, path: Path) -> set[str]:
    """The image that a row of ``withdrawn.csv`` names; none if it is withdrawn already."""
    identities = {name} | ({image_id(name, before.patient_key)} if before.patient_key is not None else set())
    found = identities & before.records.keys()
    if not found and not identities & before.tombstones:
        raise MedmarkError(f"nothing to withdraw: no image {name!r:.200} in {before.release.path}; correct {path}")
    return found
