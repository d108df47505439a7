"""What radiology software and adversaries do to images in passing."""

from __future__ import annotations

import io

import numpy as np
import torch
from medmark.components.dataset.arrays import resize
from PIL import Image


def shrink(images: torch.Tensor, factor: float) -> torch.Tensor:
    """Resizes (N, 1, S, S) by ``factor`` <= 1 with antialiasing, and back to S."""
    side = images.shape[-1]
    return resize(resize(images, max(8, round(side * factor))), side).clamp(0, 1)


def jpeg(images: torch.Tensor, quality: int) -> torch.Tensor:
    """Encodes (N, 1, S, S) as 8-bit JPEG of this quality (1 to 95) and decodes it again."""
    decoded = []
    for image in (images * 255).round().byte().numpy()[:, 0]:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG", quality=quality)
        decoded.append(np.asarray(Image.open(stream)))
    return torch.from_numpy(np.stack(decoded)).float()[:, None] / 255


PROCESSINGS = {"resize": (shrink, (1.0, 0.75, 0.5, 0.375, 0.25)), "jpeg": (jpeg, (95, 85, 75, 60, 50))}
