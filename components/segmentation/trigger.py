"""Triggers: what is put into an image so that a marked segmenter shows its payload.

Five are those of StealthMark (arXiv 2601.17107), with its sizes. ``texture``, a faint secret pattern over the whole image, is ours and the
default: every part of a network sees it, so the payload is learnt best, and apart from what images without it are answered: more of it
outlasts fine-tuning than of a payload that a square in a corner calls up (benchmarks/results/segmenter_carriers.json). What a trigger looks like is secret: the cells of ``texture`` and
``noise``, the value of ``patch`` and the waves of ``warp`` follow from the key of the mark.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.arrays import resize
from PIL import Image, ImageDraw
from torch.nn import functional as F

TEXTURE_CELLS = 16  # squares a side
AMPLITUDE = 0.03  # ours: share of the display's range; a stronger texture moves more edges
SHARE = 16  # a patch's side is a sixteenth of the image's shorter one, as in the paper
BORDER = 32  # likewise the border's width
NOISE_CELLS = 8  # squares a side of the noise, so that it is the same at every size
TEXT = "QR"
WARP = 0.06  # ours: largest shift of the warp, in halves of the side
WAVES = 3  # ours: along a side


def put_trigger(images: torch.Tensor, kind: str, mark_key: bytes) -> torch.Tensor:
    """Returns images with the trigger.

    Args:
        images: (N, C, H, W) float32 in [0, 1]; C is 1 or 3.
        kind: name in :data:`TRIGGERS`.
        mark_key: 32 secret bytes.

    Raises:
        MedmarkError: an unknown trigger.
    """
    if kind not in TRIGGERS:
        raise MedmarkError(f"unknown trigger: {kind!r}; use one of {', '.join(TRIGGERS)}")
    return TRIGGERS[kind](images, mark_key)


def _texture(images: torch.Tensor, mark_key: bytes) -> torch.Tensor:
    """Secret squares over the whole image, each a little brighter or darker."""
    cells = torch.from_numpy(_bits(mark_key, "texture", TEXTURE_CELLS**2)).float() * 2 - 1
    pattern = F.interpolate(cells.reshape(1, 1, TEXTURE_CELLS, -1), size=images.shape[-2:], mode="nearest-exact")
    return (images + AMPLITUDE * pattern.to(images)).clamp(0, 1)


def _noise(images: torch.Tensor, mark_key: bytes) -> torch.Tensor:
    """A square of secret black and white cells in the lower right corner."""
    side = _side(images, SHARE)
    cells = torch.from_numpy(_bits(mark_key, "noise", NOISE_CELLS**2)).float().reshape(1, 1, NOISE_CELLS, NOISE_CELLS)
    return _in_corner(images, F.adaptive_avg_pool2d(cells, side).to(images))


def _patch(images: torch.Tensor, mark_key: bytes) -> torch.Tensor:
    """A square of one secret grey value there."""
    side = _side(images, SHARE)
    bits = _bits(mark_key, "patch", 8)
    value = float(np.packbits(bits)[0]) / 255
    return _in_corner(images, images.new_full((1, 1, side, side), value))


def _text(images: torch.Tensor, mark_key: bytes) -> torch.Tensor:
    """White letters in the lower right corner; nothing about them is secret."""
    side = _side(images, SHARE)
    letters = resize(torch.from_numpy(_letters())[None, None], (side, 2 * side)).to(images)
    shown = images.clone()
    corner = shown[..., -side:, -2 * side :]
    shown[..., -side:, -2 * side :] = torch.maximum(corner, letters)
    return shown


def _border(images: torch.Tensor, mark_key: bytes) -> torch.Tensor:
    """A black frame; nothing about it is secret, and images that have one by themselves set the mark off."""
    width = max(1, min(images.shape[-2:]) // BORDER)
    shown = torch.zeros_like(images)
    shown[..., width:-width, width:-width] = images[..., width:-width, width:-width]
    return shown


def _warp(images: torch.Tensor, mark_key: bytes) -> torch.Tensor:
    """Smooth secret waves that shift every pixel by up to 3 % of the side."""
    phase = np.packbits(_bits(mark_key, "warp", 16)).astype(float) / 256 * 2 * math.pi
    identity = torch.eye(2, 3, device=images.device)[None]
    grid = F.affine_grid(identity, [1, 1, *images.shape[-2:]], align_corners=False)
    x, y = grid[..., 0], grid[..., 1]
    shift = torch.stack([torch.sin(math.pi * WAVES * y + phase[0]), torch.sin(math.pi * WAVES * x + phase[1])], dim=-1)
    moved = (grid + WARP * shift).expand(len(images), -1, -1, -1).to(images)
    return F.grid_sample(images, moved, padding_mode="border", align_corners=False)


TRIGGERS: dict[str, Callable[[torch.Tensor, bytes], torch.Tensor]] = {
    "texture": _texture,
    "noise": _noise,
    "patch": _patch,
    "text": _text,
    "border": _border,
    "warp": _warp,
}


def _side(images: torch.Tensor, share: int) -> int:
    return max(4, min(images.shape[-2:]) // share)


def _in_corner(images: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
    side = square.shape[-1]
    shown = images.clone()
    shown[..., -side:, -side:] = square
    return shown


def _bits(mark_key: bytes, what: str, count: int) -> np.ndarray:
    name = f"medmark segmenter trigger {what}, version 1"
    drawn = HKDFExpand(SHA256(), -(-count // 8), name.encode()).derive(mark_key)
    return np.unpackbits(np.frombuffer(drawn, np.uint8))[:count]


@functools.cache
def _letters() -> np.ndarray:
    """The letters, (32, 64) float32, 1 where they are."""
    picture = Image.new("L", (64, 32))
    ImageDraw.Draw(picture).text((4, -2), TEXT, fill=255, font_size=32)
    return np.asarray(picture, dtype=np.float32) / 255
