"""A network that removes logos, trained by an adversary who has nothing but the locked release."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from medmark.components.base.threads import seed_everything
from medmark.components.dataset.arrays import resize
from medmark.components.locking.lesions import Box
from medmark.components.locking.logo import Logo, fitted
from torch import nn
from torch.nn import functional as F

CHANNELS = (16, 32, 64, 128)  # of the U-Net; arbitrary
MULTIPLE = 16  # of the sides that it takes
BATCH = 16
LEARNING_RATE = 2e-3  # peak; arbitrary


@dataclass(frozen=True)
class Seen:
    """Locked images as the adversary has them.

    Attributes:
        images: (N, C, S, S) float32 in [0, 1].
        boxes: N places of logos, x, y, width and height on the grid of S.
    """

    images: torch.Tensor
    boxes: Sequence[Box]


class Remover:
    """Fills the place of a logo; the rest of the image stays as it is.

    Args:
        network: takes (B, C + 1, S', S'), the image and where the logo is, and returns (B, C, S', S').
        side: S'.
    """

    def __init__(self, network: nn.Module, side: int):
        self.network, self.side = network, side

    @torch.no_grad()
    def __call__(self, seen: Seen) -> torch.Tensor:
        """Returns (N, C, S, S) float32 in [0, 1]."""
        size = seen.images.shape[-1]
        parts = []
        for start in range(0, len(seen.images), BATCH):
            images = seen.images[start : start + BATCH]
            where = _places(seen.boxes[start : start + BATCH], size)
            made = resize(self.network(_input(images, where, self.side)), size)
            parts.append(torch.where(where > 0, made.clamp(0, 1), images))
        return torch.cat(parts)


def train_remover(train: Seen, logos: Sequence[Logo], *, scales: Sequence[float], steps: int, seed: int) -> Remover:
    """Puts second logos onto locked images and trains a U-Net to take these off again.

    Args:
        train: locked images.
        logos: that the release was locked with; anybody can see them.
        scales: the logos' longer side as a share of the image's.
        steps: batches of 16.
        seed: of weights and logos.
    """
    from monai.networks.nets.unet import UNet

    size, channels = train.images.shape[-1], train.images.shape[1]
    side = -(-size // MULTIPLE) * MULTIPLE
    rng = np.random.default_rng(seed)
    seed_everything(seed)
    network = UNet(2, channels + 1, channels, channels=CHANNELS, strides=(2, 2, 2), num_res_units=1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for _ in range(steps):
        index = rng.integers(0, len(train.images), min(BATCH, len(train.images)))
        target = train.images[index]
        hidden, boxes = target.clone(), []
        for image in hidden:
            boxes.append(_put_anywhere(image, logos[int(rng.integers(len(logos)))], float(rng.choice(scales)), rng))
        where, known = _places(boxes, size), 1 - _places([train.boxes[i] for i in index], size)
        made = resize(network(_input(hidden, where, side)), size)
        # under the first logo nobody knows what there was
        loss = (F.l1_loss(made, target, reduction="none") * where * known).sum() / (where * known).sum().clamp_min(1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return Remover(network.eval(), side)


def _put_anywhere(image: torch.Tensor, logo: Logo, scale: float, rng: np.random.Generator) -> Box:
    """Puts a logo onto (C, S, S) at a random place, opaque, in place; returns the place."""
    size = image.shape[-1]
    height, width = logo.pixels.shape[:2]
    factor = scale * size / max(height, width)
    h, w = max(1, round(factor * height)), max(1, round(factor * width))
    y, x = int(rng.integers(0, size - h + 1)), int(rng.integers(0, size - w + 1))
    drawn = torch.from_numpy(fitted(logo, h, w, len(image))).permute(2, 0, 1)
    image[:, y : y + h, x : x + w].mul_(1 - drawn[-1]).add_(drawn[:-1])
    return x, y, w, h


def _places(boxes: Sequence[Box], size: int) -> torch.Tensor:
    """Draws boxes as (N, 1, size, size) float32, 1 inside."""
    where = torch.zeros(len(boxes), 1, size, size)
    for mask, (x, y, width, height) in zip(where, boxes, strict=True):
        mask[:, y : y + height, x : x + width] = 1
    return where


def _input(images: torch.Tensor, where: torch.Tensor, side: int) -> torch.Tensor:
    return torch.cat([resize(images * (1 - where), side), resize(where, side)], dim=1)
