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
from medmark.components.locking.lesions import LesionSegmenter, boxes_of, inside
from medmark.components.locking.pairs import Pair, box_on_grid
from medmark.components.segmentation.networks import Segmenter, load_segmenter, predict_maps, save_segmenter
from medmark.components.segmentation.training import SegmenterConfig, train_segmenter

LEAST = 20  # training images with lesions drawn in a mask, below which none is trained; arbitrary
# probabilities from which a place may count as a lesion's, largest first: taken is the first at which boxes hold enough, but none at which
# they cover more of the images than MOST, as no logo would find a place. Ours
LIKELY = tuple(float(likely) for likely in np.geomspace(0.5, 0.002, 24))
MOST = 0.5
UNTRIED = 0.3  # without a validation image to try them on; below one half, since a lesion missed is worse. Ours
ENOUGH = 0.95  # share of the lesions' pixels that boxes must hold in validation images; ours
STATED, WEIGHTS = "segmenter.json", "lesions.safetensors"


def train_lesion_segmenter(release_dir: str | Path, out_dir: str | Path, config: SegmenterConfig) -> dict[str, Any]:
    """Trains a segmenter on the training images with masks, if there are 20 with lesions, and tries it on the others with masks.

    Args:
        release_dir: release for classification.
        out_dir: gets ``segmenter.json`` and, if one was trained, ``lesions.safetensors``.
        config: how to train it.

    Returns:
        The content of ``segmenter.json``: ``trained``, ``images`` (training images with lesions drawn), ``config``, ``likely``
        (probability from which a place counts as a lesion's), ``chosen_on`` (validation images with lesions drawn), and of the test
        images ``held_out`` (how many show drawn lesions), ``dice``, ``boxed`` (the share of their lesions' pixels that is inside the boxes
        that no logo may touch) and ``covered`` (the share of the image that is). None where there are none.
    """
    use_threads()
    release, out = Release(release_dir), Path(out_dir)
    refuse_task(release, "classification")
    out.mkdir(parents=True, exist_ok=True)
    train, validation, held_out = (
        masks_of_records(release, (r for r in release.records(split) if r.mask), config.size)
        for split in ("train", "val", "test")
    )
    drawn = len(_with_lesions(train))
    stated: dict[str, Any] = {"trained": drawn >= LEAST, "images": drawn, "config": asdict(config)}
    stated |= {"likely": None, "chosen_on": 0, "held_out": 0, "dice": None, "boxed": None, "covered": None}
    if stated["trained"]:
        model = train_segmenter(train, config).model
        save_segmenter(model, out / WEIGHTS)
        stated |= _chosen(model, validation)
        stated |= _tried(LesionSegmenter(model, stated["likely"]), held_out)
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
        if not isinstance(stated["trained"], bool) or (stated["trained"] and not 0 < stated["likely"] < 1):
            raise ValueError("it does not say whether one was trained, or how sure it must be")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MedmarkError(f"no segmenter of lesions: {path} ({reason_of(error)}); run its training again") from error
    return stated


def load_lesion_segmenter(folder: str | Path) -> LesionSegmenter | None:
    """Reads the segmenter back; None if none was trained. Errors as of :func:`read_stated`."""
    stated = read_stated(folder)
    return LesionSegmenter(load_segmenter(Path(folder) / WEIGHTS), stated["likely"]) if stated["trained"] else None


def compare_dice(segmenter: LesionSegmenter | None, pairs: Sequence[Pair], release: Release) -> dict[str, Any] | None:
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
    network, size = segmenter.network, segmenter.network.size
    clean = masks_of_records(release, (pair.clean for pair in drawn), size)
    locked = masks_of_records(release, (replace(pair.clean, image=pair.locked.image) for pair in drawn), size)
    before, after = predict_maps(network, clean.images), predict_maps(network, locked.images)
    elsewhere = after.clone()
    for found, pair in zip(elsewhere, drawn, strict=True):
        x, y, width, height = box_on_grid(pair.lock, pair.clean.width, pair.clean.height, size)
        found[y : y + height, x : x + width] = 0
    maps = {"clean": before, "locked": after, "locked_elsewhere": elsewhere}
    return {"images": len(drawn), **{name: _dice(found, clean.masks) for name, found in maps.items()}}


def _chosen(network: Segmenter, validation: MaskArrays) -> dict[str, Any]:
    """How sure it must be of a lesion, and on how many images that was chosen."""
    drawn = _with_lesions(validation)
    if not len(drawn):
        return {"likely": UNTRIED, "chosen_on": 0}
    masks, maps = validation.masks[drawn], predict_maps(network, validation.images[drawn])
    likely = LIKELY[0]
    for lower in LIKELY:
        boxed, covered = _boxed(maps, masks, lower)
        if covered > MOST:
            break
        likely = lower
        if boxed >= ENOUGH:
            break
    return {"likely": likely, "chosen_on": len(drawn)}


def _tried(segmenter: LesionSegmenter, held_out: MaskArrays) -> dict[str, Any]:
    """How well it finds lesions in images that nothing was trained or chosen on."""
    drawn = _with_lesions(held_out)
    if not len(drawn):
        return {}
    masks, maps = held_out.masks[drawn], predict_maps(segmenter.network, held_out.images[drawn])
    boxed, covered = _boxed(maps, masks, segmenter.likely)
    return {"held_out": len(drawn), "dice": _dice(maps, masks), "boxed": boxed, "covered": covered}


def _boxed(maps: torch.Tensor, masks: torch.Tensor, likely: float) -> tuple[float, float]:
    """Mean share of the lesions' pixels, and of all pixels, that is inside the boxes."""
    boxes = [inside(boxes_of(found >= likely), found.shape) for found in maps.numpy()]
    held = [box[mask > 0].mean() for box, mask in zip(boxes, masks[:, 0].numpy(), strict=True)]
    return float(np.mean(held)), float(np.mean(boxes))


def _with_lesions(arrays: MaskArrays) -> torch.Tensor:
    """Positions of the images whose masks are not empty."""
    return torch.nonzero(arrays.masks.flatten(1).sum(1)).flatten()


def _dice(maps: torch.Tensor, masks: torch.Tensor) -> float:
    from medmark.components.segmentation.harm import image_metrics  # takes seconds to import

    return float(np.nanmean(image_metrics(maps, masks)["dice"]))
