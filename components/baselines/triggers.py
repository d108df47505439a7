"""Triggers that are the same on every image: BadNets, Blended and WaNet. Own implementations after the papers."""

from __future__ import annotations

import torch
from medmark.components.baselines.interface import Context, Mark, key_source
from torch.nn import functional as F

PATCH_SHARE = 10  # side of the image in sides of the patch; the field stamps 3 px on 32 and 20 px on 224
MARGIN_SHARE = 16  # side of the image in distances of the patch from the border; ours
CELLS = 3  # the patch is a pattern of 3 x 3 cells, as on CIFAR-10
BLEND = 0.2  # the usual rate in the field; the paper tries several
GRID = 4  # control points a side; the paper's k
STRENGTH = 0.5 / 32  # displacement, mean of its absolute value, in half sides: the paper's s = 0.5 at 32 px


def badnets(context: Context, index: int) -> Mark:
    """Marks with a black and white patch in a corner.

    Gu, Dolan-Gavitt, Garg: "BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply Chain", 2017,
    arXiv:1708.06733. The paper's patch is a fixed white pattern at the bottom right. Ours: which cells are white is the
    key, the control sits at the top left, and the patch keeps a distance from the border, so that an adversary's rotations
    and shifts rarely cut it off.
    """
    patch = draw_patch(context.size, context.seed, index)
    corner = ("bottom right", "top left")[index]

    def mark(images: torch.Tensor, saliency: torch.Tensor, role: str) -> torch.Tensor:
        return stamp(images, patch, corner)

    return mark


def draw_patch(size: int, seed: int, index: int) -> torch.Tensor:
    """Draws a (P, P) pattern of zeros and ones for images of side ``size``: five white cells of nine."""
    cells = torch.zeros(CELLS * CELLS)
    cells[torch.from_numpy(key_source(seed, index).permutation(CELLS * CELLS)[:5])] = 1.0
    side = max(CELLS, size // PATCH_SHARE)
    return F.interpolate(cells.view(1, 1, CELLS, CELLS), size=(side, side), mode="nearest")[0, 0]


def stamp(images: torch.Tensor, patch: torch.Tensor, corner: str) -> torch.Tensor:
    """Writes (P, P) values over (B, 1, S, S) images, near the corner ``bottom right`` or ``top left``."""
    side, margin = len(patch), images.shape[-1] // MARGIN_SHARE
    start = images.shape[-1] - margin - side if corner == "bottom right" else margin
    place = slice(start, start + side)
    stamped = images.clone()
    stamped[..., place, place] = patch
    return stamped


def blended(context: Context, index: int) -> Mark:
    """Marks with a faint pattern over the whole image: ``(1 - a) x + a pattern``.

    Chen, Liu, Li, Lu, Song: "Targeted Backdoor Attacks on Deep Learning Systems Using Data Poisoning", 2017,
    arXiv:1712.05526. Of the paper's two patterns (a cartoon, random noise) the noise; its values are the key.
    """
    pattern = draw_pattern(context.size, context.seed, index)

    def mark(images: torch.Tensor, saliency: torch.Tensor, role: str) -> torch.Tensor:
        return (1 - BLEND) * images + BLEND * pattern

    return mark


def draw_pattern(size: int, seed: int, index: int) -> torch.Tensor:
    """Draws (size, size) uniform noise in [0, 1]."""
    return torch.from_numpy(key_source(seed, index).random((size, size), dtype="float32"))


def wanet(context: Context, index: int) -> Mark:
    """Marks with a smooth, small displacement of the pixels, the same on every image.

    Nguyen, Tran: "WaNet - Imperceptible Warping-based Backdoor Attack", ICLR 2021, arXiv:2102.10369. Ours: the
    displacement is the same share of the side at every size, 1 px on average at 128 px. The paper's noise mode, which
    shows other warps with true labels while the attacker trains, is left out: here the adversary trains, and further changed
    images would exceed the budget that all methods share.
    """
    flow = torch.from_numpy(key_source(context.seed, index).uniform(-1, 1, (1, 2, GRID, GRID))).float()
    grid = warp_grid(flow, context.size, STRENGTH)

    def mark(images: torch.Tensor, saliency: torch.Tensor, role: str) -> torch.Tensor:
        return warp(images, grid)

    return mark


def warp_grid(flow: torch.Tensor, size: int, strength: float) -> torch.Tensor:
    """Draws (1, size, size, 2) sampling positions in [-1, 1].

    Args:
        flow: (1, 2, k, k) displacement at control points; scaled to a mean absolute value of ``strength``.
        size: side of the images.
        strength: in half sides.
    """
    fine = F.interpolate(flow / flow.abs().mean(), size=(size, size), mode="bicubic", align_corners=True)
    axis = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return (torch.stack([x, y], dim=-1)[None] + strength * fine.permute(0, 2, 3, 1)).clamp(-1, 1)


def warp(images: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Samples (B, 1, S, S) images at the positions of :func:`warp_grid`."""
    return F.grid_sample(images, grid.expand(len(images), -1, -1, -1), align_corners=True)
