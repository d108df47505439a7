"""Attacks on the training data, before the adversary trains: images in, images out. What comes in is not changed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.arrays import ImageArrays
from medmark.components.robustness.suspicion import suspicion
from medmark.components.surrogate.networks import Classifier
from torch.nn import functional as F


def joined(*parts: ImageArrays) -> ImageArrays:
    """Joins several sets of images, in order."""
    return ImageArrays(
        torch.cat([part.images for part in parts]),
        torch.cat([part.labels for part in parts]),
        [name for part in parts for name in part.image_ids],
        [name for part in parts for name in part.patient_ids],
    )


def mix(train: ImageArrays, clean: ImageArrays, share: float, seed: int = 0) -> ImageArrays:
    """Dilutes the release with images from elsewhere.

    As many images as can be had; where the clean ones do not suffice for the share, the adversary takes fewer of the release.

    Args:
        train: the release's training images.
        clean: images without the mark, of the same size.
        share: of the result that is clean, above 0 and below 1.
        seed: of the choice.

    Raises:
        MedmarkError: the share is out of range, or there is no clean image.
    """
    if not 0 < share < 1 or not len(clean):
        raise MedmarkError(f"cannot mix {len(clean)} clean images to a share of {share:g}; use a share between 0 and 1")
    rng = np.random.default_rng(seed)
    added = min(len(clean), round(len(train) * share / (1 - share)))
    kept = min(len(train), round(added * (1 - share) / share))
    return joined(
        train.subset(np.sort(rng.permutation(len(train))[:kept])),
        clean.subset(np.sort(rng.permutation(len(clean))[:added])),
    )


def crop_and_rotate(train: ImageArrays, crop: float, degrees: float, seed: int = 0) -> ImageArrays:
    """Turns and cuts each image in its own way, once, and enlarges it to its old size; the trainer's own augmentation follows.

    Args:
        train: images.
        crop: share of each side that is cut off, 0 to 1; what is left is anywhere in the image.
        degrees: largest turn to either side.
        seed: of turns and places.
    """
    generator = torch.Generator().manual_seed(seed)
    count = len(train)
    angle = (torch.rand(count, generator=generator) * 2 - 1) * math.radians(degrees)
    affine = torch.zeros(count, 2, 3)
    affine[:, 0, 0], affine[:, 0, 1] = (1 - crop) * angle.cos(), -(1 - crop) * angle.sin()
    affine[:, 1, 0], affine[:, 1, 1] = (1 - crop) * angle.sin(), (1 - crop) * angle.cos()
    affine[:, :, 2] = (torch.rand(count, 2, generator=generator) * 2 - 1) * crop
    grid = F.affine_grid(affine, list(train.images.shape), align_corners=False)
    moved = F.grid_sample(train.images, grid, padding_mode="border", align_corners=False)
    return replace(train, images=moved.clamp(0, 1))


def remove_suspicious(train: ImageArrays, model: Classifier, method: str, share: float, seed: int = 0) -> ImageArrays:
    """Leaves out the most suspicious images of each class: the adversary does not know which class carries marks.

    Args:
        train: images.
        model: trained on them.
        method: name in :data:`medmark.components.robustness.suspicion.METHODS`.
        share: of each class that goes, 0 to 1.
        seed: of the method.

    Raises:
        MedmarkError: unknown method, or a class of too few images.
    """
    scores = suspicion(model, train.images, train.labels, method, seed)
    kept = np.ones(len(train), bool)
    for label in train.labels.unique().tolist():
        of_class = np.flatnonzero((train.labels == label).numpy())
        ranked = of_class[np.argsort(-scores[of_class], kind="stable")]
        kept[ranked[: round(share * len(ranked))]] = False
    return train.subset(np.flatnonzero(kept))
