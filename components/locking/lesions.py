"""Where the lesions of an image are: boxes that no logo may touch, and what they were taken from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from medmark.components.dataset.arrays import colour_tensor
from medmark.components.dataset.codecs import decode_png
from medmark.components.dataset.release import Record
from medmark.components.saliency.extract import saliency_maps
from medmark.components.surrogate.networks import Classifier
from scipy import ndimage

SALIENT = 0.7  # ours: share of a saliency map's maximum from which a place counts as a lesion's

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Lesions:
    """Lesions of an image.

    Attributes:
        boxes: x, y, width and height of each, pixels of the image.
        source: ``mask`` if a mask of the release says where they are, ``saliency`` if it was guessed from where a classifier looks.
    """

    boxes: list[Box]
    source: str

    def forbidden(self, shape: tuple[int, int], margin: int) -> np.ndarray:
        """Where no logo may be: (H, W) bool, the boxes and a margin around them.

        Args:
            shape: height and width of the image.
            margin: pixels.
        """
        found = np.zeros(shape, bool)
        for x, y, width, height in self.boxes:
            found[max(0, y - margin) : y + height + margin, max(0, x - margin) : x + width + margin] = True
        return found


def find_lesions(record: Record, mode: str, model: Classifier) -> Lesions:
    """Finds the lesions of an image: from its mask, or, if it has none, from where a classifier looks (EigenCAM).

    Args:
        record: the image.
        mode: the release's ``image_mode``.
        model: classifier to ask where there is no mask.
    """
    if record.mask is not None:
        return Lesions(boxes_of(decode_png(record.mask) > 0), "mask")
    shown = saliency_maps(model, colour_tensor(record, mode))
    wide = torch.nn.functional.interpolate(
        shown, size=(record.height, record.width), mode="bilinear", align_corners=False
    )
    salient = wide[0, 0].numpy() >= SALIENT * max(float(wide.max()), 1e-6)
    return Lesions(boxes_of(salient), "saliency")


def boxes_of(mask: np.ndarray) -> list[Box]:
    """Returns the bounding boxes of a mask's connected parts.

    Args:
        mask: (H, W) bool.
    """
    labelled, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    return [
        (s[1].start, s[0].start, s[1].stop - s[1].start, s[0].stop - s[0].start) for s in ndimage.find_objects(labelled)
    ]
