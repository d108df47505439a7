"""A source of raw images: a folder per class or of images and masks (:mod:`medmark.components.dataset.folders`), or a CSV
(:mod:`medmark.components.dataset.csv_manifests`), listed without decoding an image.

An image that cannot be used has a problem, so that ingest can refuse it or put it into quarantine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.chexpert import UNCERTAIN
from medmark.components.dataset.csv_manifests import read_csv
from medmark.components.dataset.dicom import dicom_patient
from medmark.components.dataset.folders import read_folders, read_folders_with_lesions, read_masked
from medmark.components.dataset.items import Item, SetAside, SourceImage
from medmark.components.dataset.patients import check_pattern, name_patients
from medmark.components.dataset.tombstones import WITHDRAWN

MASK_COLUMN = "mask"


@dataclass(frozen=True)
class SourceOptions:
    """How a source is to be read; all but ``patient_pattern`` are about a CSV.

    Attributes:
        label_column: column with the finding, or with class names or numbers.
        path_column: column with the paths; found by its usual names when None.
        patient_column: column with the patients; found by its usual names when None, and CheXpert's ``patientNNNNN`` in a
            path also counts. Without any, the DICOM PatientID; without that, each image is a patient of its own.
        patient_pattern: regular expression; what its first group finds in an image's path inside the source is the patient,
            whatever else might tell. At most 200 characters.
        where: only the rows with these values.
        root: folder that the CSV's paths start from; the CSV's own folder when None.
        uncertain: CheXpert's -1: ``ones``, ``zeros`` or ``ignore``.
        class_names: classes in label order; any when None.
        masks: whether every image has a mask; a source without a CSV is then a folder with ``images`` and ``masks``.
        mask_column: column with the paths of the masks; ``mask`` when None.
        lesions: whether labelled images may have masks of their lesions; a source without a CSV is then a folder with a folder per class
            below ``images`` and ``masks`` each.

    Raises:
        MedmarkError: an unknown policy for uncertain labels, a pattern that cannot tell patients, or a pattern and a column.
    """

    label_column: str | None = None
    path_column: str | None = None
    patient_column: str | None = None
    patient_pattern: str | None = None
    where: dict[str, str] = field(default_factory=dict)
    root: str | Path | None = None
    uncertain: str = "ignore"
    class_names: list[str] | None = None
    masks: bool = False
    mask_column: str | None = None
    lesions: bool = False

    def __post_init__(self) -> None:
        if self.uncertain not in UNCERTAIN:
            raise MedmarkError(
                f"unknown policy for uncertain labels: {self.uncertain!r}; use one of {', '.join(UNCERTAIN)}"
            )
        if self.patient_pattern is None:
            return
        check_pattern(self.patient_pattern)
        if self.patient_column is not None:
            raise MedmarkError(
                f"two rules for patients: column {self.patient_column!r} and pattern {self.patient_pattern!r}; give one"
            )


def list_items(source: Path, options: SourceOptions) -> list[Item]:
    """Lists the images of a source.

    Raises:
        MedmarkError: there is no such source, no label column is named, or the CSV cannot be read.
    """
    table = source_table(source, options)
    folders = read_masked if options.masks else read_folders_with_lesions if options.lesions else read_folders
    items = list(folders(source) if table is None else _rows(table, options))
    for item in items:
        if options.class_names and not options.masks and item.problem is None and item.label not in options.class_names:
            item.problem = f"unknown label {item.label!r}: {item.name}; use one of {', '.join(options.class_names)}"
    if options.patient_pattern is not None:
        name_patients(items, options.patient_pattern)
    return items


def _rows(table: Path, options: SourceOptions) -> Iterable[Item]:
    if not table.is_file():
        raise MedmarkError(f"no such folder or file: {table}; give a folder per class, a CSV or a release")
    if not options.label_column and not options.masks:
        raise MedmarkError(f"no label column named for {table}; name it, for example label_column=Pneumonia")
    return read_csv(
        table,
        root=Path(options.root) if options.root else table.parent,
        label_column=options.label_column,
        path_column=options.path_column,
        patient_column=options.patient_column,
        where=options.where,
        uncertain=options.uncertain,
        class_names=options.class_names,
        mask_column=(options.mask_column or MASK_COLUMN) if options.masks or options.lesions else None,
        lesions=options.lesions,
    )


def source_table(source: Path, options: SourceOptions) -> Path | None:
    """Returns the CSV of a source: itself, or the only one in the folder but for ``withdrawn.csv``; None for a folder per class.

    Raises:
        MedmarkError: the folder should have a CSV, and has none or several.
    """
    if not source.is_dir():
        return source
    if not options.label_column and not options.where and not options.mask_column:
        return None
    tables = sorted(path for path in source.glob("*.csv") if path.name != WITHDRAWN)
    if len(tables) != 1:
        raise MedmarkError(f"{len(tables)} CSV files in {source}; give the CSV itself as the source")
    return tables[0]


def sift(items: Iterable[Item], quarantine: bool) -> tuple[list[SourceImage], list[SetAside]]:
    """Parts the images that can be used from the others, and reads DICOM headers where they alone name patients.

    Args:
        items: of a source.
        quarantine: set aside what cannot be used, instead of refusing.

    Returns:
        The images that can be used, with a patient each, and those that are set aside.

    Raises:
        MedmarkError: an image cannot be used, without ``quarantine``.
    """
    usable: list[SourceImage] = []
    rejected: list[SetAside] = []
    seen: set[str] = set()
    for item in items:
        problem, patient, rule = item.problem, item.patient, item.rule
        if problem is None and item.name in seen:
            problem = f"duplicate id: {item.name} is listed twice; remove one of the two rows"
        seen.add(item.name)
        if problem is None and patient is None:
            try:
                patient, rule = dicom_patient(item.path), "the PatientID of the DICOM file"
            except MedmarkError as error:
                # taken for a patient of its own, it could land in another split than the patient's other images
                problem = str(error)
        if problem is None:
            patient, rule = (patient, rule) if patient else (item.name, "the image's path")
            usable.append(SourceImage(item.path, item.name, item.label, patient, rule or "", item.split, item.mask))
        elif quarantine or problem.startswith("uncertain label"):
            rejected.append(SetAside(item.name, problem))
        else:
            raise MedmarkError(f"{problem} (or ingest with --quarantine)")
    return usable, rejected
