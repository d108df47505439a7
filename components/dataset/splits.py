"""Splits by patient, balanced over the classes, and what every split must hold."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.items import SetAside, SourceImage
from medmark.components.dataset.release import SPLITS

MIN_TARGET_IMAGES = 20  # ours: fewer training images of the target class cannot carry a mark
NEEDED = ("train", "test")  # splits that must hold every class


def split_patients(labels: dict[str, list[str]], shares: tuple[float, float, float], seed: int) -> dict[str, str]:
    """Assigns every patient to a split.

    Patients are grouped by their most frequent class and each group is cut in the same shares, so classes are balanced
    over the splits while a patient is never in two.

    Args:
        labels: class names of each patient's images.
        shares: of train, val and test; they sum to 1.
        seed: of the order.

    Returns:
        Split by patient.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for patient in sorted(labels):
        groups[Counter(sorted(labels[patient])).most_common(1)[0][0]].append(patient)
    rng = np.random.default_rng(seed)
    assigned = {}
    for name in sorted(groups):
        patients = list(rng.permutation(groups[name]))
        total = sum(len(labels[p]) for p in patients)
        bounds = np.cumsum(shares) * total
        done = 0
        for patient in patients:
            # by the middle of the patient's images, so that one with many does not tip a split
            middle = done + len(labels[patient]) / 2
            assigned[patient] = SPLITS[min(2, int(np.searchsorted(bounds, middle)))]
            done += len(labels[patient])
    return assigned


def assign_splits(
    images: list[SourceImage], shares: tuple[float, float, float], seed: int, quarantine: bool
) -> tuple[dict[str, str], list[SetAside]]:
    """Assigns every image to a split: the given one, or its patient's.

    Args:
        images: of a source.
        shares: of train, val and test, for images without a given split.
        seed: of the order of patients.
        quarantine: set aside an image whose given split is not the patient's first, instead of refusing.

    Returns:
        Split by name, and the images that are set aside.

    Raises:
        MedmarkError: a patient is in two given splits, without ``quarantine``.
    """
    given: dict[str, str] = {}
    by_patient: dict[str, list[str]] = defaultdict(list)
    split_of: dict[str, str] = {}
    rejected: list[SetAside] = []
    for image in images:
        if image.split is None:
            by_patient[image.patient].append(image.label)
            continue
        known = given.setdefault(image.patient, image.split)
        if known == image.split:
            split_of[image.name] = image.split
            continue
        problem = (
            f"same patient in two splits: {image.name} is in {image.split}, other images of patient {image.patient} are in"
            f" {known}; move them to one split"
        )
        if not quarantine:
            raise MedmarkError(f"{problem} (or ingest with --quarantine)")
        rejected.append(SetAside(image.name, problem))
    assigned = split_patients(by_patient, shares, seed)
    split_of.update({image.name: assigned[image.patient] for image in images if image.split is None})
    return split_of, rejected


def check_patients(images: list[SourceImage], split_of: dict[str, str], source: str) -> None:
    """Refuses splits that leave a class out, before an image is decoded, and says what was taken for the patients.

    Args:
        images: of the source.
        split_of: split by name; without the images that are set aside.
        source: for messages.

    Raises:
        MedmarkError: a class has no image for training or none for testing.
    """
    there = {(split_of[image.name], image.label) for image in images if image.name in split_of}
    remedy = "name the patients by --patient-pattern or --patient-column"
    for label in sorted({image.label for image in images}):
        missing = [split for split in NEEDED if (split, label) not in there]
        if not missing:
            continue
        first, patients = images[0], {image.patient for image in images}
        if len(patients) == 1 and first.split is None:
            raise MedmarkError(
                f"all {len(images)} images are taken for one patient, {first.patient!r}: {source}, where the patient is"
                f" {first.rule} ({first.name}); {remedy}"
            )
        of_class = [image for image in images if image.label == label]
        first, patients = of_class[0], {image.patient for image in of_class}
        problem = f"class {label!r} has no image in split {missing[0]}: {source}"
        if any(image.split is not None for image in of_class):
            raise MedmarkError(f"{problem}; correct the column split, or supply more patients")
        raise MedmarkError(
            f"{problem}, where its {len(of_class)} images are of {len(patients)} patient{'s' * (len(patients) > 1)} and the"
            f" patient is {first.rule}, {first.patient!r} in {first.name}; supply more patients, or {remedy}"
        )


def check_counts(counts: dict[str, dict[str, int]], target_class: str | None, source: str) -> None:
    """Refuses counts with which nothing can be trained, tested or marked.

    Args:
        counts: images by split and class.
        target_class: class to mark; the first one when empty, and not counted when None.
        source: for messages.

    Raises:
        MedmarkError: a class has no image for training or none for testing, there is no such class as ``target_class``, or it
            has fewer than :data:`MIN_TARGET_IMAGES` images for training.
    """
    for split in NEEDED:
        for name, count in counts[split].items():
            if count == 0:
                raise MedmarkError(f"class {name!r} has no image in split {split}: {source}; supply more patients")
    if target_class is None:
        return
    training = counts["train"]
    target = target_class or next(iter(training))
    if target not in training:
        raise MedmarkError(f"unknown class: {target!r} in {source}; use one of {', '.join(training)}")
    if training[target] < MIN_TARGET_IMAGES:
        raise MedmarkError(
            f"too few images of target class {target!r}: {training[target]} for training in {source}, {MIN_TARGET_IMAGES} are"
            " needed to carry a mark; supply more or choose another target_class"
        )


def check_training(counts: dict[str, dict[str, int]], foreground: str, source: str) -> None:
    """Refuses counts with which no segmentation model can be trained or tested.

    Args:
        counts: images by split and class.
        foreground: class of the images whose masks are not empty.
        source: for messages.

    Raises:
        MedmarkError: no mask that is not empty, for training or for testing.
    """
    for split in NEEDED:
        if counts[split][foreground] == 0:
            raise MedmarkError(f"no mask with any foreground in split {split}: {source}; supply more patients")
