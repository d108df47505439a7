"""Ingesting: from what hospitals have to a release."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from medmark.components.base.digests import file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.base.progress import track
from medmark.components.dataset.codecs import decode_file, decode_mask, encode_png
from medmark.components.dataset.decoded import DecodedImage
from medmark.components.dataset.items import SourceImage
from medmark.components.dataset.origin import REJECTED, Origin, write_origins
from medmark.components.dataset.pseudonyms import image_id, pseudonym
from medmark.components.dataset.release import IMAGE_MODES, TASKS, Record, Release
from medmark.components.dataset.release_copy import copy_release
from medmark.components.dataset.release_writer import ReleaseWriter
from medmark.components.dataset.sources import SourceOptions, list_items, sift, source_table
from medmark.components.dataset.splits import assign_splits, check_counts, check_patients, check_training

COPIED = ["image_id", "sha256"]
BACKGROUND, FOREGROUND = "background", "foreground"


def ingest(
    source: str | Path,
    out: str | Path,
    *,
    name: str = "release",
    version: str = "1",
    label_column: str | None = None,
    path_column: str | None = None,
    patient_column: str | None = None,
    patient_pattern: str | None = None,
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
    task: str = "classification",
    mask_column: str | None = None,
    image_mode: str = "L",
    lesions: bool = False,
) -> Release:
    """Makes a release of a source, streaming: one image is in memory at a time.

    Args:
        source: a folder per class; a folder with ``images`` and ``masks`` (for segmentation, and with lesions); a CSV (CheXpert's layout or any
            manifest, which may name DICOM files like others); or an ingested release, which is checked and copied.
        out: folder to make; must be empty or absent.
        name: of the data set.
        version: of the release.
        label_column, path_column, patient_column, patient_pattern, where, root, uncertain, mask_column: how to read the source,
            see :class:`medmark.components.dataset.sources.SourceOptions`.
        class_names: classes in label order; sorted by name when None. For segmentation, names of background and foreground.
        target_class: class that will be marked, the first one when empty; at least 20 of its images must be for training. Not
            counted when None.
        shares: of train, val and test, where the source has no column ``split`` of train, val and test.
        quarantine: set aside what cannot be used, with the reason, instead of refusing.
        seed: of splits, which can be seen in the release.
        patient_key: secret of the ids of images and patients, at most 64 characters; drawn when None.
        private: folder to make for what an update needs later, see :mod:`medmark.components.dataset.origin`.
        rejected: private file to write names and reasons of what is set aside to, Parquet; must be absent, and is written only
            if there is any. ``rejected.parquet`` in ``private`` when None; without that, ``<out>.rejected.parquet``.
        task: ``classification``, or ``segmentation`` if every image has a mask.
        image_mode: ``L``, or ``RGB`` for colours.
        lesions: whether images for classification come with masks of their lesions; an image without one is taken, too.

    Returns:
        The release. Its images keep their depth and resolution, are all encoded anew by one encoder, and come in the order
        of their ids, which says nothing about them.

    Raises:
        MedmarkError: an option or the source cannot be used; one line with the file and the remedy.
    """
    source, out = Path(source), Path(out)
    private = Path(private) if private is not None else None
    if abs(sum(shares) - 1) > 1e-6 or min(shares) <= 0:
        raise MedmarkError(f"split shares {shares} are not three positive numbers that sum to 1; correct them")
    if task not in TASKS or image_mode not in IMAGE_MODES:
        raise MedmarkError(f"task {task!r} and images {image_mode!r}; use one of {TASKS} and one of {IMAGE_MODES}")
    masks = task == "segmentation"
    if masks and lesions:
        raise MedmarkError(
            "masks of lesions for segmentation: they go with images for classification; leave one of the two out"
        )
    if masks and class_names and len(class_names) != 2:
        raise MedmarkError(f"classes {class_names} for segmentation; name background and foreground, or leave them out")
    options = SourceOptions(
        label_column,
        path_column,
        patient_column,
        patient_pattern,
        where or {},
        root,
        uncertain,
        class_names,
        masks,
        mask_column,
        lesions,
    )
    if (source / "release.json").is_file():
        release = copy_release(source, out, target_class, task=task, image_mode=image_mode)
        if private is not None:
            origins = [Origin(r.image_id, r.image_id, r.sha256, r.sha256) for r in release.records(columns=COPIED)]
            write_origins(private, origins, patient_key=None)
        return release
    key = patient_key or secrets.token_hex(32)
    if private is not None:
        private.mkdir(parents=True, exist_ok=True)
        os.chmod(private, 0o700)
    images, unusable = sift(list_items(source, options), quarantine)
    table = source_table(source, options)
    origins = [Origin.of_table(table)] if table else []
    classes = class_names or ([BACKGROUND, FOREGROUND] if masks else sorted({image.label for image in images}))
    if len(classes) < 2:
        raise MedmarkError(f"fewer than 2 classes: {source} has {classes or 'no usable image'}; add the other class")
    split_of, unusable_split = assign_splits(images, shares, seed, quarantine)
    check_patients(images, split_of, str(source))
    names = rejected or (private / REJECTED if private is not None else out.with_name(f"{out.name}.{REJECTED}"))
    with ReleaseWriter(
        out,
        name=name,
        version=version,
        class_names=classes,
        image_mode=image_mode,
        task=task,
        lesions=lesions,
        rejected=names,
    ) as writer:
        for unused, reason in unusable + unusable_split:
            writer.reject(unused, reason)
        for image in track(in_order_of_ids(images, key), "ingesting"):
            decoded = _decode(image, writer, quarantine, image_mode) if image.name in split_of else None
            if decoded is None:
                continue
            record = make_record(image, decoded, classes, split_of[image.name], key)
            if masks:
                record = replace(record, label=int(decoded.mask is not None and decoded.mask.any()))
            writer.add(record)
            if private is not None:
                origins.append(Origin(record.image_id, image.name, file_sha256(image.path), record.sha256))
                if image.mask is not None:
                    origins.append(Origin(None, f"{image.name} (mask)", file_sha256(image.mask), None))
        if masks:
            check_training(writer.counts, classes[1], str(source))
        else:
            check_counts(writer.counts, target_class, str(source))
    if private is not None:
        write_origins(private, origins, patient_key=key)
    return Release(out)


def _decode(image: SourceImage, writer: ReleaseWriter, quarantine: bool, mode: str) -> DecodedImage | None:
    """Decodes an image and its mask; with ``quarantine`` sets it aside and returns None if that fails."""
    try:
        decoded = decode_file(image.path, mode=mode)
        if image.mask is not None:
            decoded.mask = decode_mask(image.mask)
            if decoded.mask.shape != decoded.pixels.shape[:2]:
                sizes = [f"{shape[1]}x{shape[0]}" for shape in (decoded.mask.shape, decoded.pixels.shape)]
                raise MedmarkError(
                    f"mask of {sizes[0]} pixels for an image of {sizes[1]}: {image.name}; correct the mask"
                )
        return decoded
    except MedmarkError as error:
        if not quarantine:
            raise MedmarkError(f"{error} (or ingest with --quarantine)") from error
        writer.reject(image.name, str(error))
        return None


def make_record(image: SourceImage, decoded: DecodedImage, classes: list[str], split: str, key: str) -> Record:
    """Makes the record of a decoded image, encoded as every image of a release is.

    Args:
        image: of the source.
        decoded: its pixels.
        classes: class names in label order; an image without a label gets the first.
        split: train, val or test.
        key: the patients' key, which the ids are made with.
    """
    data = encode_png(decoded.pixels)
    mask = None if decoded.mask is None else encode_png(decoded.mask)
    return Record(
        image_id=image_id(image.name, key),
        image=data,
        encoding="png",
        label=classes.index(image.label) if image.label else 0,
        patient_id=pseudonym(image.patient, key),
        split=split,
        width=decoded.pixels.shape[1],
        height=decoded.pixels.shape[0],
        bits=decoded.bits,
        sha256=hashlib.sha256(data).hexdigest(),
        dicom=json.dumps(decoded.dicom, sort_keys=True) if decoded.dicom else None,
        mask=mask,
        mask_sha256=None if mask is None else hashlib.sha256(mask).hexdigest(),
    )


def in_order_of_ids(images: Iterable[SourceImage], key: str) -> list[SourceImage]:
    """Sorts images by their ids, an order that says nothing about them."""
    return sorted(images, key=lambda image: image_id(image.name, key))
