"""Converting between stored values and what a viewer shows.

Marks are made in *display units*: the image as a radiologist's viewer shows it, in [0, 1]. They are written back into
stored values at native depth, so window, rescale and MONOCHROME1 keep their meaning.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from medmark.components.dataset.dicom import shown_window

REACH = 1.25  # arbitrary: images that use four fifths of the display's range or more are marked in full


def to_unit(pixels: np.ndarray, bits: int, dicom: dict[str, Any] | None = None) -> np.ndarray:
    """Converts stored values to the image as shown.

    Args:
        pixels: (H, W) stored values.
        bits: significant bits.
        dicom: display attributes; the first window is used, MONOCHROME1 is inverted. Without a window, the full range.

    Returns:
        (H, W) float32 in [0, 1].
    """
    window = shown_window(bits, dicom)
    unit = np.clip((pixels.astype(np.float32) - window.low) / window.span, 0.0, 1.0).astype(np.float32)
    return 1.0 - unit if window.inverted else unit


def stored_delta(delta: np.ndarray, pixels: np.ndarray, bits: int, dicom: dict[str, Any] | None = None) -> np.ndarray:
    """Converts a perturbation to stored values.

    Args:
        delta: (H, W) in units of the display's full range.
        pixels: (H, W) stored values; the display's range counts for no more than :data:`REACH` times theirs, so that a window
            that is much wider than the image cannot drown it.
        bits: significant bits.
        dicom: display attributes.

    Returns:
        (H, W) float64, to be added.
    """
    window = shown_window(bits, dicom)
    span = min(window.span, REACH * float(np.ptp(pixels)))
    return delta.astype(np.float64) * (-span if window.inverted else span)
