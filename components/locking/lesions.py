"""Where the lesions of an image are: boxes that no logo may touch, and what they were taken from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from medmark.components.dataset.arrays import colour_tensor, resize
from medmark.components.dataset.codecs import decode_png
from medmark.components.dataset.release import Record
from medmark.components.saliency.extract import saliency_maps
from medmark.components.segmentation.networks import Segmenter, predict_maps
from medmark.components.surrogate.networks import Classifier
from scipy import ndimage

SALIENT = 0.7  # ours: share of a saliency map's maximum from which a place counts as a lesion's

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Lesions:
    """Lesions of an image.

    Attributes:
        boxes: x, y, width and height of each, pixels of the image.
        source: ``mask`` if a mask of the release says where they are, ``segmenter`` if one that was trained on such masks does,
            ``saliency`` if it was guessed from where a classifier looks.
    """

    boxes: list[Box]
    source: str

    def forbidden(self, shape: tuple[int, int], margin: int) -> np.ndarray:
        """Where no logo may be: (H, W) bool, the boxes and a margin around them.

        Args:
            shape: height and width of the image.
            margin: pixels.
        """
        return inside(self.boxes, shape, margin)


@dataclass(frozen=True)
class LesionSegmenter:
    """Finds lesions where nobody has drawn them.

    Attributes:
        network: the segmenter.
        likely: probability from which a place counts as a lesion's.
    """

    network: Segmenter
    likely: float


def inside(boxes: list[Box], shape: tuple[int, ...], margin: int = 0) -> np.ndarray:
    """(H, W) bool, true in boxes and a margin of so many pixels around them."""
    found = np.zeros(shape, bool)
    for x, y, width, height in boxes:
        found[max(0, y - margin) : y + height + margin, max(0, x - margin) : x + width + margin] = True
    return found


def find_lesions(record: Record, mode: str, model: Classifier, segmenter: LesionSegmenter | None) -> Lesions:
    """Finds the lesions of an image: from its mask, else with a segmenter, else from where a classifier looks (EigenCAM).

    Args:
        record: the image.
        mode: the release's ``image_mode``.
        model: classifier to ask where there is neither mask nor segmenter.
        segmenter: finds lesions where there is no mask; None if there is none.
    """
    if record.mask is not None:
        return Lesions(boxes_of(decode_png(record.mask) > 0), "mask")
    image, shape = colour_tensor(record, mode), (record.height, record.width)
    if segmenter is not None:
        network = segmenter.network
        found = _enlarged(predict_maps(network, resize(image, network.size))[:, None], shape)
        return Lesions(boxes_of(found >= segmenter.likely), "segmenter")
    where = next(model.parameters()).device
    found = _enlarged(saliency_maps(model, image.to(where)).cpu(), shape)
    return Lesions(boxes_of(found >= SALIENT * max(float(found.max()), 1e-6)), "saliency")


def _enlarged(maps: torch.Tensor, shape: tuple[int, int]) -> np.ndarray:
    """(1, 1, h, w) as (H, W)."""
    return torch.nn.functional.interpolate(maps, size=shape, mode="bilinear", align_corners=False)[0, 0].numpy()


def boxes_of(mask: np.ndarray) -> list[Box]:
    """Returns the bounding boxes of a mask's connected parts.

    Args:
        mask: (H, W) bool.
    """
    labelled, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    return [
        (s[1].start, s[0].start, s[1].stop - s[1].start, s[0].stop - s[0].start) for s in ndimage.find_objects(labelled)
    ]
