"""What ingest can read: lists of images with label, patient and, where given, split.

Every reader is a generator of :class:`Item`; nothing is decoded here. A row that cannot be used becomes an item with a
``problem``, so that ingest can refuse it or put it into quarantine.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from medmark.components.base.errors import MedmarkError
from medmark.components.base.text import reason_of, shown
from medmark.components.dataset.codecs import IMAGE_SUFFIXES
from medmark.components.dataset.release import SPLITS

PATH_COLUMNS = ("Path", "path", "file", "filename", "image")
PATIENT_COLUMNS = ("patient_id", "PatientID", "patient", "group_id")
CHEXPERT_PATIENT = re.compile(r"patient(\d+)")
UNCERTAIN = ("ones", "zeros", "ignore")
WITHDRAWN = "withdrawn.csv"  # of a drop that takes images out, see drop.py


@dataclass
class Item:
    """One image of a source.

    Attributes:
        path: file.
        name: how messages and quarantine call it: the path inside the source.
        label: class name, or None with a problem.
        patient: raw patient id, or None when only the DICOM header or nothing tells.
        split: given split, or None.
        problem: why it cannot be used, with the remedy, or None.
    """

    path: Path
    name: str
    label: str | None
    patient: str | None = None
    split: str | None = None
    problem: str | None = None


def inside(root: Path, relative: str) -> Path:
    """A path of a source, checked to stay inside it even through links.

    Raises:
        MedmarkError: it leaves the source folder, or no file can have that name.
    """
    path = root / relative
    if shown(relative) != relative:
        raise MedmarkError(f"name too long or with unprintable characters: {shown(relative)}; rename the file")
    try:
        path.resolve(strict=False).is_file()
    except (OSError, ValueError, RuntimeError) as error:
        raise MedmarkError(f"path that cannot be used: {relative}; correct the path or remove it") from error
    if not path.resolve().is_relative_to(root.resolve()):
        raise MedmarkError(f"path leaves the source folder: {relative}; move the file below {root.name}/")
    return path


def read_folders(root: Path) -> Iterator[Item]:
    """A folder per class; the patient is what stands before the first ``_`` of the file's name.

    A file without ``_`` is its own patient.
    """
    for folder in sorted(p for p in root.iterdir() if p.is_dir()):
        for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES):
            name = path.relative_to(root).as_posix()
            try:
                inside(root, name)
            except MedmarkError as error:
                yield Item(path, shown(name), shown(folder.name), problem=str(error))
                continue
            patient = path.stem.split("_")[0] if "_" in path.stem else path.stem
            yield Item(path, name, folder.name, patient)


def read_csv(
    table_path: Path,
    *,
    root: Path,
    label_column: str,
    path_column: str | None,
    patient_column: str | None,
    where: dict[str, str],
    uncertain: str,
    class_names: list[str] | None,
) -> Iterator[Item]:
    """A CSV with a path and a label a row: CheXpert's layout, or any manifest.

    In a column of CheXpert findings (values 1, 0, -1, blank) blank means 0 and -1 follows ``uncertain``. Number labels
    0, 1, ... name the classes in the order of ``class_names``.

    Raises:
        MedmarkError: the file cannot be read, or a column is missing.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a row with more cells than the header
            table = pd.read_csv(table_path, dtype=str, keep_default_na=False, index_col=False)
    except (OSError, ValueError, MemoryError, pd.errors.ParserWarning) as error:
        reason = reason_of(error)
        raise MedmarkError(f"unreadable CSV: {table_path} ({reason}); save it as UTF-8 comma-separated text") from error

    def column(wanted: str | None, known: tuple[str, ...], what: str, flag: str) -> str | None:
        if wanted is not None:
            if wanted not in table.columns:
                raise MedmarkError(f"missing column {wanted!r}: {table_path}; it has {shown(', '.join(table.columns))}")
            return wanted
        found = next((c for c in known if c in table.columns), None)
        if found is None and flag:
            raise MedmarkError(f"no column with the {what}: {table_path}; name it with {flag}")
        return found

    path_key = column(path_column, PATH_COLUMNS, "paths", "path_column")
    label_key = column(label_column, (), "labels", "label_column")
    patient_key = column(patient_column, PATIENT_COLUMNS, "patients", "")
    split_key = "split" if "split" in table.columns and set(table["split"]) <= set(SPLITS) else None
    for key, value in where.items():
        column(key, (), "filter", "where")
        table = table[table[key] == value]
    values = {v.strip() for v in table[label_key]}
    finding = values <= {"", "0", "1", "-1", "0.0", "1.0", "-1.0"} and class_names is None
    for row in table.to_dict("records"):
        name, raw = row[path_key], row[label_key].strip()
        item = Item(root / name, shown(name), None, split=row[split_key] if split_key else None)
        try:
            item.path = inside(root, name)
        except MedmarkError as error:
            item.problem = str(error)
        if finding:
            item.label = _finding(raw, uncertain, label_key)
            if item.label is None:
                item.problem = f"uncertain label -1: {item.name}; choose --uncertain ones or zeros to keep it"
        elif raw.lower() in ("", "nan", "none", "na"):
            item.problem = f"no label (blank or NaN): {item.name} in {table_path.name}; fill in column {label_key!r}"
        elif class_names and raw.isascii() and raw.isdigit() and len(raw) < 10 and raw not in class_names:
            item.label = class_names[int(raw)] if int(raw) < len(class_names) else raw
        else:
            item.label = raw
        if patient_key:
            item.patient = row[patient_key].strip() or None
        elif match := CHEXPERT_PATIENT.search(name):
            item.patient = match.group(0)
        if class_names and item.label is not None and item.label not in class_names:
            item.problem = f"unknown label {shown(item.label)!r}: {item.name}; use one of {', '.join(class_names)}"
        for what, text in (("label", item.label), ("patient", item.patient)):
            if text is not None and shown(text) != text:
                item.problem = f"{what} too long or with unprintable characters: {item.name}; correct it"
        yield item


def _finding(raw: str, uncertain: str, finding: str) -> str | None:
    value = float(raw) if raw else 0.0
    if value == -1:
        if uncertain == "ignore":
            return None
        value = 1.0 if uncertain == "ones" else 0.0
    return finding if value == 1 else f"no_{finding}"


def image_id(name: str, key: str) -> str:
    """Name of an image in the release: 32 hex digits that only who has the key can make from the image's name in the source.

    128 bits of keyed BLAKE2b: among 10 million images two have the same one with a probability of 1.5e-25.
    """
    return _keyed(name, key, b"medmark-image")


def pseudonym(patient: str, key: str) -> str:
    """A patient's name in the release: 32 hex digits that only who has the key can make from the patient's id."""
    return _keyed(patient, key, b"medmark-patient")


def _keyed(text: str, key: str, person: bytes) -> str:
    data = text.encode(errors="surrogateescape")  # names of files may be no Unicode
    return hashlib.blake2b(data, key=key.encode(), digest_size=16, person=person).hexdigest()
