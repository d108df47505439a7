"""Reading a CSV manifest: a path and a label a row, as CheXpert or anybody lays it out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from medmark.components.base.errors import MedmarkError
from medmark.components.base.text import printable, reason_of
from medmark.components.dataset import chexpert
from medmark.components.dataset.items import Item, inside
from medmark.components.dataset.release import SPLITS

PATH_COLUMNS = ("Path", "path", "file", "filename", "image")
PATIENT_COLUMNS = ("patient_id", "PatientID", "patient", "group_id")


@dataclass(frozen=True)
class _Columns:
    path: str
    label: str | None
    patient: str | None
    split: str | None


def read_csv(
    table_path: Path,
    *,
    root: Path,
    label_column: str | None,
    path_column: str | None,
    patient_column: str | None,
    where: dict[str, str],
    uncertain: str,
    class_names: list[str] | None,
    mask_column: str | None = None,
    lesions: bool = False,
) -> Iterator[Item]:
    """Lists the images of a CSV.

    In a column of CheXpert findings (values 1, 0, -1, blank) blank means 0 and -1 follows ``uncertain``. Number labels
    0, 1, ... name the classes in the order of ``class_names``.

    Args:
        table_path: the CSV.
        root: folder that its paths start from.
        label_column: column with the finding, or with class names or numbers; None only for segmentation.
        path_column: column with the paths; the first of :data:`PATH_COLUMNS` when None.
        patient_column: column with the patients; the first of :data:`PATIENT_COLUMNS` when None, else the number in
            CheXpert's paths.
        where: values that a row's columns must have; other rows are passed over.
        uncertain: see :func:`medmark.components.dataset.chexpert.finding_label`.
        class_names: the only labels allowed; any when None.
        mask_column: column with the paths of the masks, which start from ``root`` too; the items have no label then, unless the masks
            are of lesions. No masks when None.
        lesions: whether the masks are of lesions; a row without one has none then.

    Raises:
        MedmarkError: the file cannot be read, or a column is missing.
    """
    table = _read(table_path)
    columns = _find_columns(table, table_path, path_column, label_column, patient_column)
    if mask_column is not None:
        _check_column(mask_column, table, table_path)
    for key, value in where.items():
        _check_column(key, table, table_path)
        table = table[table[key] == value]
    labels = [cell.strip() for cell in table[columns.label]] if columns.label else []
    finding = class_names is None and chexpert.is_finding(labels)
    for row in table.to_dict("records"):
        name = row[columns.path]
        item = Item(root / name, printable(name), "", split=row[columns.split] if columns.split else None)
        try:
            item.path = inside(root, name)
        except MedmarkError as error:
            item.problem = str(error)
        raw = row[columns.label].strip() if columns.label else ""
        if lesions and mask_column is not None and row[mask_column].strip():
            _find_mask(item, root, row[mask_column])
        if mask_column is not None and not lesions:
            _find_mask(item, root, row[mask_column])
        elif finding:
            item.label = chexpert.finding_label(raw, columns.label or "", uncertain) or ""
            if not item.label:
                item.problem = f"uncertain label -1: {item.name}; choose --uncertain ones or zeros to keep it"
        elif raw.lower() in ("", "nan", "none", "na"):
            item.problem = (
                f"no label (blank or NaN): {item.name} in {table_path.name}; fill in column {columns.label!r}"
            )
        else:
            item.label = _class_of(raw, class_names or [])
        if columns.patient:
            item.patient, item.rule = row[columns.patient].strip() or None, f"the text in column {columns.patient!r}"
        else:
            item.patient, item.rule = chexpert.patient_in_path(name), chexpert.PATIENT_RULE
        for what, text in (("label", item.label), ("patient", item.patient)):
            if text is not None and printable(text) != text:
                item.problem = f"{what} too long or with unprintable characters: {item.name}; correct it"
        yield item


def _find_mask(item: Item, root: Path, relative: str) -> None:
    if not relative.strip():
        item.problem = item.problem or f"no mask: {item.name}; name its mask, or leave the row out"
        return
    try:
        item.mask = inside(root, relative)
    except MedmarkError as error:
        item.problem = item.problem or str(error)


def _read(path: Path) -> pd.DataFrame:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a row with more cells than the header
            return pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False)
    except (OSError, ValueError, MemoryError, pd.errors.ParserWarning) as error:
        reason = reason_of(error)
        raise MedmarkError(f"unreadable CSV: {path} ({reason}); save it as UTF-8 comma-separated text") from error


def _find_columns(
    table: pd.DataFrame, path: Path, path_column: str | None, label_column: str | None, patient_column: str | None
) -> _Columns:
    for wanted in (path_column, label_column, patient_column):
        if wanted is not None:
            _check_column(wanted, table, path)
    path_column = path_column or next((c for c in PATH_COLUMNS if c in table.columns), None)
    if path_column is None:
        raise MedmarkError(f"no column with the paths: {path}; name it with path_column")
    patient_column = patient_column or next((c for c in PATIENT_COLUMNS if c in table.columns), None)
    split = "split" if "split" in table.columns and set(table["split"]) <= set(SPLITS) else None
    return _Columns(path_column, label_column, patient_column, split)


def _check_column(name: str, table: pd.DataFrame, path: Path) -> None:
    if name not in table.columns:
        raise MedmarkError(f"missing column {name!r}: {path}; it has {printable(', '.join(table.columns))}")


def _class_of(label: str, class_names: list[str]) -> str:
    """Returns the class of a label, which may be the class's number."""
    if not (label.isascii() and label.isdigit() and len(label) < 10) or label in class_names:
        return label
    return class_names[int(label)] if int(label) < len(class_names) else label
