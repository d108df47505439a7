"""An ingested release as a source: checked, and copied as it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.codecs import decode_png, encode_png
from medmark.components.dataset.dicom import check_window
from medmark.components.dataset.release import Record, Release, refuse_names, refuse_task
from medmark.components.dataset.splits import check_counts, check_training


def copy_release(
    source: Path, out: Path, target_class: str | None, *, task: str = "classification", image_mode: str = "L"
) -> Release:
    """Checks a release and copies it, with the same digest.

    Args:
        source: folder of the release.
        out: folder to make; must be empty or absent.
        target_class: see :func:`medmark.components.dataset.splits.check_counts`.
        task: that the release must be for.
        image_mode: ``L`` refuses a release in colour if it is for classification.

    Raises:
        MedmarkError: the release is damaged, holds file names, images of another encoder or too few images, or ``out`` is not
            empty.
    """
    given = Release(source)
    refuse_names(given, "taken as a source")
    refuse_task(given, task)
    if task == "classification" and image_mode == "L" and given.image_mode == "RGB":
        raise MedmarkError(
            f"images in colour: {source}; marks are for grey images, and 'medmark ingest' takes colours with --colour"
        )
    given.verify()
    if task == "segmentation":
        check_training(given.counts, given.class_names[1], str(source))
    else:
        check_counts(given.counts, target_class, str(source))
    _check_encoding(given)
    if out.exists() and any(out.iterdir()):
        raise MedmarkError(f"not empty: {out}; choose a new folder for the release")
    (out / "shards").mkdir(parents=True, exist_ok=True)
    for shard in given.shards:
        shutil.copyfile(source / shard.file, out / shard.file)
    shutil.copyfile(source / "release.json", out / "release.json")
    return Release(out)


def _check_encoding(release: Release) -> None:
    """Refuses images that another encoder wrote: marked ones are encoded anew, and could be told from them."""
    known: dict[tuple[int, int, bool], tuple[int, bytes]] = {}
    colours = (3,) if release.image_mode == "RGB" else ()
    for record in release.records(columns=["image_id", "image", "width", "height", "bits", "dicom"]):
        kind = record.height, record.width, record.bits <= 8
        if kind not in known:
            shape = (record.height, record.width, *colours)
            ours = encode_png(np.zeros(shape, np.uint8 if record.bits <= 8 else np.uint16))
            known[kind] = len(ours), ours[: ours.index(b"IDAT")]
        size, head = known[kind]
        if len(record.image) != size or not record.image.startswith(head):
            raise MedmarkError(
                f"image of another encoder: {record.image_id} in {release.path}; marked ones could be told from it: ingest the"
                " raw images instead"
            )
        check_display(record, release)


def check_display(record: Record, release: Release) -> None:
    """Refuses a release's image whose display attributes are hostile or implausible.

    Args:
        record: the image, with pixels.
        release: where it is from, for messages.

    Raises:
        MedmarkError: see :func:`medmark.components.dataset.dicom.check_window`.
    """
    try:
        if record.dicom:
            check_window(decode_png(record.image), record.bits, record.display)
    except MedmarkError as error:
        raise MedmarkError(f"display of {record.image_id} in {release.path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise MedmarkError(
            f"display of {record.image_id} in {release.path} is no JSON; ingest the raw images"
        ) from error
