"""The release that an update starts from, and where its images came from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.origin import (
    Former,
    Origin,
    past_digest,
    read_former,
    read_held_back,
    read_origins,
    read_past,
    read_patient_key,
)
from medmark.components.dataset.pseudonyms import pseudonym
from medmark.components.dataset.release import Record, Release

INDEX = ["image_id", "label", "patient_id", "split", "bits", "dicom"]


@dataclass
class Previous:
    """What is known of the previous release's images.

    Attributes:
        release: the release.
        patient_key: key of its pseudonyms; None if they were made elsewhere.
        origins: where each image came from, by id.
        records: each image without its pixels, by id.
        split_of: split of each patient, by pseudonym; a drop's new patients are added.
        tombstones: ids of all images that were ever withdrawn.
        past: see :func:`medmark.components.dataset.origin.read_past`.
        by_pixels: id of the image that has these pixels, by SHA-256 of the image as encoded; a drop's images are added.
        former: what is known of the run before its ids were made anew, or None.
        held_back: patient of each image that is never published, by id.
    """

    release: Release
    patient_key: str | None
    origins: dict[str, Origin]
    records: dict[str, Record]
    split_of: dict[str, str]
    tombstones: set[str]
    past: dict[str, str | None]
    by_pixels: dict[str | None, str]
    former: Former | None
    held_back: dict[str, str]

    @classmethod
    def read(cls, release: Release, origin_dir: str | Path) -> Previous:
        """Reads the private folder that belongs to a release.

        Raises:
            MedmarkError: the folder is damaged, or of another release.
        """
        origins = {origin.image_id: origin for origin in read_origins(origin_dir) if origin.image_id}
        records = {record.image_id: record for record in release.records(columns=INDEX)}
        held_back = read_held_back(origin_dir)
        if set(origins) != records.keys() | held_back.keys():
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
            held_back,
        )

    @cached_property
    def held_back_patients(self) -> set[str]:
        """Pseudonyms of the patients whose images are never published."""
        return set(self.held_back.values())

    def pseudonym(self, patient: str) -> str:
        """Returns the patient's name in the release: a pseudonym of the former one if ids were made anew, and the name as it
        is if the pseudonyms were made elsewhere."""
        if self.patient_key is None:
            return patient
        return pseudonym(self.former.patient(patient) if self.former else patient, self.patient_key)

    def was(self, image_sha256: str, otherwise: str | None) -> str | None:
        """Returns the image that once had these pixels, None if it was withdrawn, and ``otherwise`` if no image had them."""
        for key in [self.patient_key] + ([self.former.key] if self.former else []):
            digest = past_digest(image_sha256, key)
            if digest in self.past:
                return self.past[digest]
        return otherwise
