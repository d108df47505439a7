"""A segmenter that finds lesions where nobody has drawn them, trained on the images of the release that have masks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from medmark.components.base.atomic import write_atomic
from medmark.components.base.digests import canonical_json
from medmark.components.base.errors import MedmarkError
from medmark.components.base.text import reason_of
from medmark.components.base.threads import use_threads
from medmark.components.dataset.arrays import MaskArrays, masks_of_records
from medmark.components.dataset.codecs import decode_png
from medmark.components.dataset.release import Release, refuse_task
from medmark.components.locking.lesions import LIKELY, boxes_of, inside
from medmark.components.locking.pairs import Pair, box_on_grid
from medmark.components.segmentation.networks import Segmenter, load_segmenter, predict_maps, save_segmenter
from medmark.components.segmentation.training import SegmenterConfig, train_segmenter

LEAST = 20  # training images with lesions drawn in a mask, below which none is trained; arbitrary
STATED, WEIGHTS = "segmenter.json", "lesions.safetensors"


def train_lesion_segmenter(release_dir: str | Path, out_dir: str | Path, config: SegmenterConfig) -> dict[str, Any]:
    """Trains a segmenter on the training images with masks, if there are 20 with lesions, and tries it on the others with masks.

    Args:
        release_dir: release for classification.
        out_dir: gets ``segmenter.json`` and, if one was trained, ``lesions.safetensors``.
        config: how to train it.

    Returns:
        The content of ``segmenter.json``: ``trained``, ``images`` (training images with lesions drawn), ``config``, and of the images
        with masks in the other splits ``held_out`` (how many show lesions), ``dice`` and ``boxed``: the share of their lesions' pixels that
        is inside the boxes that no logo may touch. None where there are none.
    """
    use_threads()
    release, out = Release(release_dir), Path(out_dir)
    refuse_task(release, "classification")
    out.mkdir(parents=True, exist_ok=True)
    train, held_out = (
        masks_of_records(release, (r for split in splits for r in release.records(split) if r.mask), config.size)
        for splits in (("train",), ("val", "test"))
    )
    drawn = len(_with_lesions(train))
    stated: dict[str, Any] = {"trained": drawn >= LEAST, "images": drawn, "config": asdict(config)}
    stated |= {"held_out": 0, "dice": None, "boxed": None}
    if stated["trained"]:
        model = train_segmenter(train, config).model
        save_segmenter(model, out / WEIGHTS)
        stated |= _tried(model, held_out)
    write_atomic(out / STATED, canonical_json(stated))
    return stated


def read_stated(folder: str | Path) -> dict[str, Any]:
    """Content of ``segmenter.json``.

    Raises:
        MedmarkError: the folder is not that of :func:`train_lesion_segmenter`.
    """
    path = Path(folder) / STATED
    try:
        stated = json.loads(path.read_bytes())
        if not isinstance(stated["trained"], bool):
            raise ValueError("it does not say whether one was trained")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MedmarkError(f"no segmenter of lesions: {path} ({reason_of(error)}); run its training again") from error
    return stated


def load_lesion_segmenter(folder: str | Path) -> Segmenter | None:
    """Reads the segmenter back; None if none was trained. Errors as of :func:`read_stated`."""
    return load_segmenter(Path(folder) / WEIGHTS) if read_stated(folder)["trained"] else None


def compare_dice(segmenter: Segmenter | None, pairs: Sequence[Pair], release: Release) -> dict[str, Any] | None:
    """Measures what locks do to a segmenter: how well it finds lesions that somebody has drawn, before and after.

    Args:
        segmenter: None: nothing is measured.
        pairs: images; those without a mask or with an empty one are left out.
        release: that they are from.

    Returns:
        ``images``, and mean Dice over them: ``clean``, ``locked``, and ``locked_elsewhere``, where what it finds under the logo does not
        count: no lesion is there. None without a segmenter or an image with lesions drawn.
    """
    drawn = [pair for pair in pairs if pair.clean.mask is not None and decode_png(pair.clean.mask).any()]
    if segmenter is None or not drawn:
        return None
    size = segmenter.size
    clean = masks_of_records(release, (pair.clean for pair in drawn), size)
    locked = masks_of_records(release, (replace(pair.clean, image=pair.locked.image) for pair in drawn), size)
    before, after = predict_maps(segmenter, clean.images), predict_maps(segmenter, locked.images)
    elsewhere = after.clone()
    for found, pair in zip(elsewhere, drawn, strict=True):
        x, y, width, height = box_on_grid(pair.lock, pair.clean.width, pair.clean.height, size)
        found[y : y + height, x : x + width] = 0
    maps = {"clean": before, "locked": after, "locked_elsewhere": elsewhere}
    return {"images": len(drawn), **{name: _dice(found, clean.masks) for name, found in maps.items()}}


def _tried(model: Segmenter, held_out: MaskArrays) -> dict[str, Any]:
    """How well it finds lesions in images that it was not trained on."""
    drawn = _with_lesions(held_out)
    if not len(drawn):
        return {}
    masks, maps = held_out.masks[drawn], predict_maps(model, held_out.images[drawn])
    boxed = [
        float(inside(boxes_of(found >= LIKELY), found.shape)[mask > 0].mean())
        for found, mask in zip(maps.numpy(), masks[:, 0].numpy(), strict=True)
    ]
    return {"held_out": len(drawn), "dice": _dice(maps, masks), "boxed": float(np.mean(boxed))}


def _with_lesions(arrays: MaskArrays) -> torch.Tensor:
    """Positions of the images whose masks are not empty."""
    return torch.nonzero(arrays.masks.flatten(1).sum(1)).flatten()


def _dice(maps: torch.Tensor, masks: torch.Tensor) -> float:
    from medmark.components.segmentation.harm import image_metrics  # takes seconds to import

    return float(np.nanmean(image_metrics(maps, masks)["dice"]))
