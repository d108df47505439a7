"""Showing what is in a release: a table, and a contact sheet."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from medmark.components.dataset.arrays import colour_tensor
from medmark.components.dataset.codecs import decode_png
from medmark.components.dataset.release import SPLITS, Record, Release
from PIL import Image
from scipy import ndimage

OUTLINE = (255, 170, 0)  # of masks


def describe(release_dir: str | Path) -> dict[str, Any]:
    """Checks a release and sums it up.

    Returns:
        name, version, schema_version, task, image_mode, masks (in words; None without), digest, parent, classes, images, counts (by split
        and class), patients, resolutions (the ten most frequent), bits, rejected.

    Raises:
        MedmarkError: something in the release is not as ``release.json`` says.
    """
    release = Release(release_dir)
    release.verify()
    patients: set[str] = set()
    resolutions: Counter[str] = Counter()
    bits: Counter[int] = Counter()
    masked = ["mask_sha256"] if "mask" in release.arrow_schema.names else []
    lesions = 0
    for record in release.records(columns=["patient_id", "width", "height", "bits", *masked]):
        lesions += record.mask_sha256 is not None
        patients.add(record.patient_id)
        resolutions[f"{record.width}x{record.height}"] += 1
        bits[record.bits] += 1
    return {
        "name": release.name,
        "version": release.version,
        "schema_version": release.schema_version,
        "task": release.task,
        "image_mode": release.image_mode,
        "masks": _masks_in_words(release, lesions) if masked else None,
        "digest": release.digest,
        "parent": release.parent,
        "classes": release.class_names,
        "images": len(release),
        "counts": release.counts,
        "patients": len(patients),
        "resolutions": dict(resolutions.most_common(10)),
        "bits": {str(k): v for k, v in sorted(bits.items())},
        "rejected": release.rejected["rows"] if release.rejected else 0,
    }


def print_description(description: dict[str, Any]) -> None:
    """Prints :func:`describe` as a table."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=f"{description['name']} {description['version']}", title_justify="left")
    table.add_column("split")
    for name in description["classes"]:
        table.add_column(name, justify="right")
    for split in SPLITS:
        table.add_row(split, *(str(description["counts"][split][name]) for name in description["classes"]))
    console.print(table)
    console.print(f"digest      {description['digest']}", soft_wrap=True)
    console.print(f"parent      {description['parent'] or 'none: made from raw images'}", soft_wrap=True)
    console.print(f"images      {description['images']} of {description['patients']} patients")
    shown = ", ".join(f"{size} ({count})" for size, count in list(description["resolutions"].items())[:3])
    console.print(f"resolution  {shown}{' and others' if len(description['resolutions']) > 3 else ''}")
    if description["masks"]:
        console.print(f"masks       {description['masks']}")
    if description["image_mode"] == "RGB":
        console.print("colours     RGB")
    console.print(f"bits        {', '.join(description['bits'])}")
    console.print(f"quarantined {description['rejected']}")
    console.print("every digest checked", style="green")
    if description["schema_version"] == 1:
        listed = " and rejected.parquet names source files" if description["rejected"] else ""
        console.print(
            f"image ids hold file names{listed} (schema version 1): do not publish it; 'medmark reissue' gives it new ids",
            style="yellow",
            soft_wrap=True,
        )


def _masks_in_words(release: Release, count: int) -> str:
    return "one an image" if release.task == "segmentation" else f"of lesions, for {count} of {len(release)} images"


def preview(release_dir: str | Path, out_png: str | Path, *, per_class: int = 6, side: int = 192) -> None:
    """Writes a contact sheet: a row of images, as shown, for each class; masks are outlined.

    Args:
        release_dir: release to show.
        out_png: file to write.
        per_class: images a row.
        side: pixels of a tile; images are fitted into it without changing their shape.
    """
    release = Release(release_dir)
    # a release for segmentation has no row for empty masks where there is none
    shown = [k for k, name in enumerate(release.class_names) if any(of[name] for of in release.counts.values())]
    rows: dict[int, list[np.ndarray]] = {label: [] for label in shown}
    for record in release.records():
        row = rows[record.label]
        if len(row) < per_class:
            image = Image.fromarray(_tile(record, release.image_mode))
            image.thumbnail((side, side))
            tile = np.zeros((side, side, 3), np.uint8)
            top, left = (side - image.height) // 2, (side - image.width) // 2
            tile[top : top + image.height, left : left + image.width] = np.asarray(image)
            row.append(tile)
        if all(len(r) == per_class for r in rows.values()):
            break
    blank = np.zeros((side, side, 3), np.uint8)
    sheet = np.vstack([np.hstack(row + [blank] * (per_class - len(row))) for row in rows.values()])
    Image.fromarray(sheet).save(out_png)


def _tile(record: Record, mode: str) -> np.ndarray:
    """Draws an image as shown, (H, W, 3) uint8, with its mask outlined."""
    shown = (colour_tensor(record, mode)[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    shown = np.repeat(shown, 3, axis=2) if mode == "L" else shown
    if record.mask is not None:
        mask = decode_png(record.mask) > 0
        shown[mask & ~ndimage.binary_erosion(mask, iterations=max(1, mask.shape[0] // 128))] = OUTLINE
    return shown
