"""A release's images as one tensor, with labels or with masks, for training and for tests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.codecs import decode_png
from medmark.components.dataset.display import to_unit
from medmark.components.dataset.release import Record, Release, refuse_task
from torch.nn import functional as F


@dataclass
class ImageArrays:
    """Images in memory.

    Attributes:
        images: (N, C, S, S) float32 in [0, 1], or uint8 as :func:`medmark.components.dataset.prepared.load_bytes` gives them, see
            :func:`as_unit`; C is 1, or 3 for a release in RGB.
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
    """Decodes one record of a release with grey images as shown: (1, 1, H, W) float32 in [0, 1]."""
    return torch.from_numpy(to_unit(decode_png(record.image), record.bits, record.display))[None, None]


def colour_tensor(record: Record, mode: str) -> torch.Tensor:
    """Decodes one record of any release as shown: (1, C, H, W) float32 in [0, 1].

    Args:
        record: the image.
        mode: the release's ``image_mode``; C is 1 for ``L`` and 3 for ``RGB``.
    """
    if mode == "L":
        return display_tensor(record)
    return torch.from_numpy(decode_png(record.image, mode=mode)).permute(2, 0, 1)[None].float() / 255


def shown_bytes(record: Record, mode: str, size: int) -> torch.Tensor:
    """Decodes one record as shown, squashed to a square as most training code does: (C, S, S) uint8, 0 to 255.

    Whatever learns from a release sees these 8 bits, so that it learns the same from prepared images as from the release.

    Args:
        record: the image.
        mode: the release's ``image_mode``.
        size: S, pixels.
    """
    return (resize(colour_tensor(record, mode), size)[0] * 255).round().byte()


def as_unit(images: torch.Tensor) -> torch.Tensor:
    """Float32 in [0, 1] of uint8, 0 to 255; floats as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def load_arrays(release: Release, *, split: str | None = None, size: int) -> ImageArrays:
    """Decodes a split, as shown in 8 bits, squashed to a square.

    Args:
        release: release to read.
        split: train, val or test; all when None.
        size: side of the square in pixels.

    Returns:
        Its images as float32.

    Raises:
        MedmarkError: the split has no image, or the release is for segmentation.
    """
    decoded = decode_split(release, split=split, size=size)
    return replace(decoded, images=as_unit(decoded.images))


def decode_split(release: Release, *, split: str | None, size: int) -> ImageArrays:
    """The same with images as uint8, a quarter of the memory."""
    refuse_task(release, "classification")
    images, labels, image_ids, patient_ids = [], [], [], []
    for record in release.records(split):
        images.append(shown_bytes(record, release.image_mode, size))
        labels.append(record.label)
        image_ids.append(record.image_id)
        patient_ids.append(record.patient_id)
    if not images:
        raise no_image(split, release.path)
    return ImageArrays(torch.stack(images), torch.tensor(labels), image_ids, patient_ids)


@dataclass
class MaskArrays:
    """Images and masks in memory.

    Attributes:
        images: (N, C, S, S) float32 in [0, 1]; C is 1 or 3.
        masks: (N, 1, S, S) float32, 0 or 1.
        image_ids: N names, in the release's order.
        patient_ids: N pseudonyms.
    """

    images: torch.Tensor
    masks: torch.Tensor
    image_ids: list[str]
    patient_ids: list[str]

    def __len__(self) -> int:
        return len(self.masks)


def load_masks(release: Release, *, split: str | None = None, size: int) -> MaskArrays:
    """Decodes a split with its masks, as shown, squashed to a square as most training code does.

    Args:
        release: release for segmentation.
        split: train, val or test; all when None.
        size: side of the square in pixels. A pixel of a mask that becomes smaller is foreground if half of it was.

    Raises:
        MedmarkError: the split has no image, the release is for classification, or a mask is not as large as its image.
    """
    refuse_task(release, "segmentation")
    arrays = masks_of_records(release, release.records(split), size)
    if not len(arrays):
        raise no_image(split, release.path)
    return arrays


def masks_of_records(release: Release, records: Iterable[Record], size: int) -> MaskArrays:
    """Likewise decodes some records of any release, all of which have a mask.

    Args:
        release: that they are from.
        records: any number.
        size: side of the square in pixels.

    Raises:
        MedmarkError: a mask is not as large as its image.
    """
    images, masks, image_ids, patient_ids = [torch.empty(0, 1, size, size)], [torch.empty(0, 1, size, size)], [], []
    for record in records:
        image, mask = colour_tensor(record, release.image_mode), torch.from_numpy(decode_png(record.mask or b""))
        if mask.shape != image.shape[-2:]:
            raise MedmarkError(f"mask of another size: {record.image_id} in {release.path}; get the release again")
        images.append(resize(image, size))
        masks.append((resize((mask > 0).float()[None, None], size) >= 0.5).float())
        image_ids.append(record.image_id)
        patient_ids.append(record.patient_id)
    return MaskArrays(torch.cat(images[1:] or images), torch.cat(masks), image_ids, patient_ids)


def no_image(split: str | None, path: Path) -> MedmarkError:
    """The error of a release, or of what was prepared from it, without an image in a split."""
    return MedmarkError(f"no image in split {split or 'any'}: {path}; ingest again with other split shares")
