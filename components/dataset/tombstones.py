"""Images that are withdrawn: reading ``withdrawn.csv``, and keeping out for ever what was once taken out.

The ids of withdrawn images are a release's tombstones (``tombstones`` in its ``changes.json``). Pixels that were withdrawn are
known again by keyed digests, see :func:`medmark.components.dataset.origin.past_digest`.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.origin import Origin
from medmark.components.dataset.previous import Previous
from medmark.components.dataset.pseudonyms import image_id
from medmark.components.dataset.release import Record

WITHDRAWN = "withdrawn.csv"  # in the folder of a drop


@dataclass
class Withdrawal:
    """What ``withdrawn.csv`` takes out.

    Attributes:
        file: the CSV, or None if the drop has none.
        image_ids: images of the previous release.
        held_back: images that were never published.
        patients: pseudonyms of the patients whose images all go.
    """

    file: Path | None = None
    image_ids: set[str] = field(default_factory=set)
    held_back: set[str] = field(default_factory=set)
    patients: set[str] = field(default_factory=set)


def read_withdrawal(source: Path, before: Previous) -> Withdrawal:
    """Reads ``withdrawn.csv`` of a drop: the column ``path`` names images, ``patient_id`` takes out all images of a patient.

    Args:
        source: folder or CSV of the drop.
        before: the previous release.

    Raises:
        MedmarkError: the file cannot be read, or names what is not there.
    """
    path = (source if source.is_dir() else source.parent) / WITHDRAWN
    if not path.is_file():
        return Withdrawal()
    by_patient: dict[str, set[str]] = {}
    of_patients = {image: record.patient_id for image, record in before.records.items()} | before.held_back
    for image, owner in of_patients.items():
        by_patient.setdefault(owner, set()).add(image)
    withdrawal = Withdrawal(path)
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
                    known = before.pseudonym(patient)
                    if known not in by_patient:
                        raise MedmarkError(
                            f"nothing to withdraw: no image of that patient in {before.release.path}; correct line"
                            f" {table.line_num} of {path}"
                        )
                    withdrawal.patients.add(known)
                    withdrawal.image_ids |= by_patient[known]
    except (OSError, ValueError, csv.Error) as error:
        raise MedmarkError(f"unreadable CSV: {path} ({error}); save it as UTF-8 comma-separated text") from error
    withdrawal.held_back = withdrawal.image_ids & before.held_back.keys()
    withdrawal.image_ids -= withdrawal.held_back
    return withdrawal


def _of_name(name: str, before: Previous, path: Path) -> set[str]:
    """Finds the image that a row of ``withdrawn.csv`` names; none if it is withdrawn already."""
    identities = {name} | ({image_id(name, before.patient_key)} if before.patient_key is not None else set())
    found = identities & (before.records.keys() | before.held_back.keys())
    if not found and not identities & before.tombstones:
        raise MedmarkError(f"nothing to withdraw: no image {name!r:.200} in {before.release.path}; correct {path}")
    return found


def buried(record: Record | None, origin: Origin, before: Previous, withdrawal: Withdrawal) -> str | None:
    """Says why an image is not taken that this drop or an earlier one withdrew.

    Args:
        record: the image, or None if it is as it was.
        origin: where it comes from.
        before: the previous release.
        withdrawal: what the drop takes out.

    Returns:
        The reason with the remedy, or None if nothing stands against the image.
    """
    if origin.image_id in withdrawal.image_ids | withdrawal.held_back:
        return f"withdrawn and brought by one drop: {origin.image_id}; take it out of the drop or of {WITHDRAWN}"
    if origin.image_id in before.tombstones or (before.former and before.former.withdrew(origin.source)):
        return f"withdrawn by an earlier release: {origin.image_id}; leave it out of the drop"
    if record is None:
        return None
    if record.patient_id in withdrawal.patients:
        return f"patient withdrawn by the drop that brings {record.image_id}; take it out of the drop or of {WITHDRAWN}"
    was = before.was(record.sha256, record.image_id)
    if was is None or before.by_pixels.get(record.sha256) in withdrawal.image_ids | withdrawal.held_back:
        return f"pixels of an image that was withdrawn: {record.image_id}; leave it out of the drop"
    return None
