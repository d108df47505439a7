"""A release's images as one tensor, for training and for tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.codecs import decode_png
from medmark.components.dataset.display import to_unit
from medmark.components.dataset.release import Record, Release
from torch.nn import functional as F


@dataclass
class ImageArrays:
    """Images in memory.

    Attributes:
        images: (N, 1, S, S) float32 in [0, 1].
        labels: (N,) int64.
        image_ids: N names, in the release's order.
        patient_ids: N pseudonyms.
    """

    images: torch.Tensor
    labels: torch.Tensor
    image_ids: list[str]
    patient_ids: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: np.ndarray | torch.Tensor) -> ImageArrays:
        """Returns the images at these positions."""
        index = torch.as_tensor(index, dtype=torch.long)
        positions = index.tolist()
        return ImageArrays(
            self.images[index],
            self.labels[index],
            [self.image_ids[i] for i in positions],
            [self.patient_ids[i] for i in positions],
        )


def resize(images: torch.Tensor, size: int | tuple[int, int]) -> torch.Tensor:
    """Resizes (B, C, H, W) to a square, or to (height, width), bilinearly with antialiasing."""
    size = (size, size) if isinstance(size, int) else size
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)


def display_tensor(record: Record) -> torch.Tensor:
    """Decodes one record as shown: (1, 1, H, W) float32 in [0, 1]."""
    return torch.from_numpy(to_unit(decode_png(record.image), record.bits, record.display))[None, None]


def load_arrays(release: Release, *, split: str | None = None, size: int) -> ImageArrays:
    """Decodes a split, as shown, squashed to a square as most training code does.

    Args:
        release: release to read.
        split: train, val or test; all when None.
        size: side of the square in pixels.

    Raises:
        MedmarkError: the split has no image.
    """
    images, labels, image_ids, patient_ids = [], [], [], []
    for record in release.records(split):
        images.append(resize(display_tensor(record), size)[0])
        labels.append(record.label)
        image_ids.append(record.image_id)
        patient_ids.append(record.patient_id)
    if not images:
        raise MedmarkError(f"no image in split {split or 'any'}: {release.path}; ingest again with other split shares")
    return ImageArrays(torch.stack(images), torch.tensor(labels), image_ids, patient_ids)
