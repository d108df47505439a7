"""What a source lists, before anything is decoded: one :class:`Item` an image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from medmark.components.base.errors import MedmarkError
from medmark.components.base.text import printable


@dataclass
class Item:
    """One image that a source lists.

    Attributes:
        path: file.
        name: path inside the source; messages and quarantine call the image so.
        label: class name; may be empty with a problem.
        patient: raw patient id, or None when only the DICOM header or nothing tells.
        rule: what was taken for the patient, in words for messages; None without ``patient``.
        split: given split, or None.
        problem: why the image cannot be used, with the remedy, or None.
        mask: file of the mask, in a source for segmentation.
    """

    path: Path
    name: str
    label: str
    patient: str | None = None
    rule: str | None = None
    split: str | None = None
    problem: str | None = None
    mask: Path | None = None


@dataclass(frozen=True)
class SourceImage:
    """One image of a source that can be used; the attributes are those of :class:`Item`, with label and patient."""

    path: Path
    name: str
    label: str
    patient: str
    rule: str
    split: str | None = None
    mask: Path | None = None


class SetAside(NamedTuple):
    """An image that ingest sets aside: its name in the source and the reason, both private."""

    name: str
    reason: str


def inside(root: Path, relative: str) -> Path:
    """Joins a path of a source to its folder, and checks that it stays inside even through links.

    Raises:
        MedmarkError: it leaves the source folder, or no file can have that name.
    """
    path = root / relative
    if printable(relative) != relative:
        raise MedmarkError(f"name too long or with unprintable characters: {printable(relative)}; rename the file")
    try:
        path.resolve(strict=False).is_file()
    except (OSError, ValueError, RuntimeError) as error:
        raise MedmarkError(f"path that cannot be used: {relative}; correct the path or remove it") from error
    if not path.resolve().is_relative_to(root.resolve()):
        raise MedmarkError(f"path leaves the source folder: {relative}; move the file below {root.name}/")
    return path
