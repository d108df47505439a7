"""From what hospitals have to a release."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from medmark.components.base.digests import file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.base.progress import track
from medmark.components.dataset.codecs import DecodedImage, decode_file, decode_png, encode_png, read_dicom
from medmark.components.dataset.display import check_window
from medmark.components.dataset.origin import REJECTED, Origin, write_origins
from medmark.components.dataset.release import Record, Release, ReleaseWriter, refuse_names
from medmark.components.dataset.sources import (
    UNCERTAIN,
    WITHDRAWN,
    Item,
    image_id,
    pseudonym,
    read_csv,
    read_folders,
    shown,
)
from medmark.components.dataset.splits import split_patients

COPIED = ["image_id", "sha256"]
MIN_TARGET_IMAGES = 20  # ours: fewer training images of the target class cannot carry a mark


def ingest(
    source: str | Path,
    out: str | Path,
    *,
    name: str = "release",
    version: str = "1",
    label_column: str | None = None,
    path_column: str | None = None,
    patient_column: str | None = None,
    where: dict[str, str] | None = None,
    root: str | Path | None = None,
    uncertain: str = "ignore",
    class_names: list[str] | None = None,
    target_class: str | None = None,
    shares: tuple[float, float, float] = (0.7, 0.1, 0.2),
    quarantine: bool = False,
    seed: int = 0,
    patient_key: str | None = None,
    private: str | Path | None = None,
    rejected: str | Path | None = None,
) -> Release:
    """Makes a release of a source, streaming: one image is in memory at a time.

    Args:
        source: a folder per class; a CSV (CheXpert's layout or any manifest; DICOM files are named in it like others);
            or an ingested release, which is checked and copied.
        out: folder to make.
        name: of the data set.
        version: of the release.
        label_column: of a CSV: the finding, or a column of class names or numbers.
        path_column: of a CSV; found by its usual names when None.
        patient_column: of a CSV, likewise; CheXpert's ``patientNNNNN`` in the path also counts. Without any, the DICOM
            PatientID; without that, each image is a patient of its own.
        where: only the CSV rows with these values.
        root: folder the CSV's paths start from; the CSV's own folder when None.
        uncertain: CheXpert's -1: ``ones``, ``zeros`` or ``ignore``.
        class_names: classes in label order; sorted by name when None.
        target_class: if given, its training images are counted (at least 20).
        shares: of train, val and test, where the source has no column ``split`` of train, val and test.
        quarantine: set aside what cannot be used, with the reason, instead of refusing.
        seed: of splits, which can be seen in the release.
        patient_key: secret of the ids of images and patients, at most 64 characters; drawn when None.
        private: folder to make for what an update needs later, see :mod:`medmark.components.dataset.origin`.
        rejected: private file for names and reasons of what is set aside, Parquet; written if there is any, and never
            overwritten. ``rejected.parquet`` in ``private`` when None; without that, ``<out>.rejected.parquet``.

    Returns:
        The release. Its images keep their depth and resolution, are all encoded anew by one encoder, and come in the order
        of their ids, which says nothing about them.

    Raises:
        MedmarkError: see the module's tests for each refusal; always one line with the file and the remedy.
    """
    source, out = Path(source), Path(out)
    if abs(sum(shares) - 1) > 1e-6 or min(shares) <= 0:
        raise MedmarkError(f"split shares {shares} are not three positive numbers that sum to 1; correct them")
    if uncertain not in UNCERTAIN:
        raise MedmarkError(f"unknown policy for uncertain labels: {uncertain!r}; use one of {', '.join(UNCERTAIN)}")
    if (source / "release.json").is_file():
        release = _copy(source, out, target_class)
        if private is not None:
            origins = [Origin(r.image_id, r.image_id, r.sha256, r.sha256) for r in release.records(columns=COPIED)]
            write_origins(private, origins, patient_key=None)
        return release
    key = patient_key or secrets.token_hex(32)
    if private is not None:
        Path(private).mkdir(parents=True, exist_ok=True)
        os.chmod(private, 0o700)
    items = list_items(source, label_column, path_column, patient_column, where or {}, root, uncertain, class_names)
    usable, unusable = sift(items, quarantine)
    table = source_table(source, label_column, where)
    origins = [Origin.of_table(table)] if table else []
    classes = class_names or sorted({item.label for item in usable})
    if len(classes) < 2:
        raise MedmarkError(f"fewer than 2 classes: {source} has {classes or 'no usable image'}; add the other class")
    split_of = _splits(usable, shares, seed, quarantine, unusable)
    names = rejected or (Path(private) / REJECTED if private is not None else out.with_name(f"{out.name}.{REJECTED}"))
    with ReleaseWriter(out, name=name, version=version, class_names=list(classes), rejected=names) as writer:
        for item, reason in unusable:
            writer.reject(item.name, reason)
        for item in track(in_order_of_ids(usable, key), "ingesting"):
            if item.name not in split_of:
                continue
            try:
                image = decode_file(item.path)
            except MedmarkError as error:
                if not quarantine:
                    raise MedmarkError(f"{error} (or ingest with --quarantine)") from error
                writer.reject(item.name, str(error))
                continue
            record = make_record(item, image, classes, split_of[item.name], key)
            writer.add(record)
            if private is not None:
                origins.append(Origin(record.image_id, item.name, file_sha256(item.path), record.sha256))
    release = Release(out)
    _check_counts(release, target_class)
    if private is not None:
        write_origins(private, origins, patient_key=key)
    return release


def make_record(item: Item, image: DecodedImage, classes: list[str], split: str, key: str) -> Record:
    """The record of a decoded image, encoded as every image of a release is; its ids are drawn with the patients' key."""
    data = encode_png(image.pixels)
    return Record(
        image_id=image_id(item.name, key),
        image=data,
        encoding="png",
        label=classes.index(item.label),
        patient_id=pseudonym(item.patient, key),
        split=split,
        width=image.pixels.shape[1],
        height=image.pixels.shape[0],
        bits=image.bits,
        sha256=hashlib.sha256(data).hexdigest(),
        dicom=json.dumps(image.dicom, sort_keys=True) if image.dicom else None,
    )


def in_order_of_ids(items: Iterable[Item], key: str) -> list[Item]:
    """In an order that says nothing about the images."""
    return sorted(items, key=lambda item: image_id(item.name, key))


def list_items(
    source, label_column, path_column, patient_column, where, root, uncertain, class_names
) -> Iterable[Item]:
    """What a source lists; see :func:`ingest` for the arguments."""
    table = source_table(source, label_column, where)
    if table is None:
        return read_folders(source)
    source = table
    if not source.is_file():
        raise MedmarkError(f"no such folder or file: {source}; give a folder per class, a CSV or a release")
    if not label_column:
        raise MedmarkError(f"no label column named for {source}; name it, for example label_column=Pneumonia")
    return read_csv(
        source,
        root=Path(root) if root else source.parent,
        label_column=label_column,
        path_column=path_column,
        patient_column=patient_column,
        where=where,
        uncertain=uncertain,
        class_names=class_names,
    )


def source_table(source: Path, label_column: str | None, where: dict | None) -> Path | None:
    """The CSV of a source: itself, or the only one in the folder but for ``withdrawn.csv``; None for a folder per class."""
    if not source.is_dir():
        return source
    if not label_column and not where:
        return None
    tables = sorted(path for path in source.glob("*.csv") if path.name != WITHDRAWN)
    if len(tables) != 1:
        raise MedmarkError(f"{len(tables)} CSV files in {source}; give the CSV itself as the source")
    return tables[0]


def sift(items: Iterable[Item], quarantine: bool) -> tuple[list[Item], list[tuple[Item, str]]]:
    """Usable items, with a patient each, and those for quarantine. Reads DICOM headers where they alone name patients."""
    usable: list[Item] = []
    rejected: list[tuple[Item, str]] = []
    seen: set[str] = set()
    for item in items:
        problem = item.problem
        if problem is None and item.name in seen:
            problem = f"duplicate id: {item.name} is listed twice; remove one of the two rows"
        seen.add(item.name)
        if problem is None and item.patient is None:
            try:
                item.patient = dicom_patient(item.path) or item.name
            except (
                MedmarkError
            ) as error:  # taken for a patient of its own it could land in another split than the patient
                problem = str(error)
        if problem is None:
            usable.append(item)
        elif quarantine or problem.startswith("uncertain label"):
            rejected.append((item, problem))
        else:
            raise MedmarkError(f"{problem} (or ingest with --quarantine)")
    return usable, rejected


def dicom_patient(path: Path) -> str | None:
    """PatientID of a DICOM file, None for any other file or without one.

    Raises:
        MedmarkError: the header cannot be read, or the id is no text of at most 512 printable characters.
    """
    if path.suffix.lower() not in (".dcm", ".dicom") or not path.is_file():
        return None
    header = read_dicom(path, stop_before_pixels=True, specific_tags=["PatientID"])
    try:
        patient = str(header.get("PatientID") or "")
    except (ValueError, TypeError, LookupError, NotImplementedError) as error:
        raise MedmarkError(f"PatientID that cannot be read: {path}; name the patients in a CSV") from error
    if patient and shown(patient) != patient:
        raise MedmarkError(f"PatientID that is no plain text: {path}; name the patients in a CSV")
    return patient or None


def _splits(usable: list[Item], shares, seed: int, quarantine: bool, rejected: list) -> dict[str, str]:
    """Split of each usable item by name."""
    given: dict[str, str] = {}
    by_patient: dict[str, list[str]] = defaultdict(list)
    split_of: dict[str, str] = {}
    for item in usable:
        if item.split is None:
            by_patient[item.patient].append(item.label)
            continue
        known = given.setdefault(item.patient, item.split)
        if known == item.split:
            split_of[item.name] = item.split
            continue
        problem = (
            f"same patient in two splits: {item.name} is in {item.split}, other images of patient {item.patient} are in"
            f" {known}; move them to one split"
        )
        if not quarantine:
            raise MedmarkError(f"{problem} (or ingest with --quarantine)")
        rejected.append((item, problem))
    assigned = split_patients(by_patient, shares, seed)
    split_of.update({item.name: assigned[item.patient] for item in usable if item.split is None})
    return split_of


def _check_encoding(release: Release) -> None:
    """Refuses images that another encoder wrote: marked ones are encoded anew, and could be told from them."""
    known: dict[tuple, tuple[int, bytes]] = {}
    for record in release.records(columns=["image_id", "image", "width", "height", "bits", "dicom"]):
        kind = record.height, record.width, np.uint8 if record.bits <= 8 else np.uint16
        if kind not in known:
            ours = encode_png(np.zeros(kind[:2], kind[2]))
            known[kind] = len(ours), ours[: ours.index(b"IDAT")]
        size, head = known[kind]
        if len(record.image) != size or not record.image.startswith(head):
            raise MedmarkError(
                f"image of another encoder: {record.image_id} in {release.path}; marked ones could be told from it: ingest the"
                " raw images instead"
            )
        check_display(record, release)


def check_display(record: Record, release: Release) -> None:
    """Refuses a release's image whose display attributes are hostile or implausible."""
    try:
        if record.dicom:
            check_window(decode_png(record.image), record.bits, record.display)
    except MedmarkError as error:
        raise MedmarkError(f"display of {record.image_id} in {release.path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise MedmarkError(
            f"display of {record.image_id} in {release.path} is no JSON; ingest the raw images"
        ) from error


def _check_counts(release: Release, target_class: str | None) -> None:
    for split in ("train", "test"):
        for name, count in release.counts[split].items():
            if count == 0:
                (release.path / "release.json").unlink()
                raise MedmarkError(
                    f"class {name!r} has no image in split {split}: {release.path}; supply more patients"
                )
    if target_class is not None:
        release.class_index(target_class)
        count = release.counts["train"][target_class]
        if count < MIN_TARGET_IMAGES:
            (release.path / "release.json").unlink()
            raise MedmarkError(
                f"too few images of target class {target_class!r}: {count} for training in {release.path},"
                f" {MIN_TARGET_IMAGES} are needed; supply more or choose another target_class"
            )


def _copy(source: Path, out: Path, target_class: str | None) -> Release:
    given = Release(source)
    refuse_names(given, "taken as a source")
    given.verify()
    _check_encoding(given)
    if out.exists() and any(out.iterdir()):
        raise MedmarkError(f"not empty: {out}; choose a new folder for the release")
    (out / "shards").mkdir(parents=True, exist_ok=True)
    for file, _, _ in given.shards:
        shutil.copyfile(source / file, out / file)
    shutil.copyfile(source / "release.json", out / "release.json")
    release = Release(out)
    _check_counts(release, target_class)
    return release
