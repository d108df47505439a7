"""Between stored values and what a viewer shows.

Marks are made in *display units*: the image as a radiologist's viewer shows it, in [0, 1]. They are written back into
stored values at native depth, so window, rescale and MONOCHROME1 keep their meaning.
"""

from __future__ import annotations

import numpy as np

REACH = 1.25  # arbitrary: images that use four fifths of the display's range or more are marked in full


def _window(bits: int, dicom: dict | None) -> tuple[float, float, bool]:
    """Stored value shown darkest, span to the brightest, and whether the scale is inverted."""
    low, span, inverted = 0.0, float(2**bits - 1), False
    if dicom:
        inverted = dicom.get("PhotometricInterpretation") == "MONOCHROME1"
        slope = float(_first(dicom.get("RescaleSlope"), 1.0)) or 1.0
        intercept = float(_first(dicom.get("RescaleIntercept"), 0.0))
        width = float(_first(dicom.get("WindowWidth"), 0.0))
        if width > 1 and "WindowCenter" in dicom:
            center = float(_first(dicom["WindowCenter"], 0.0))
            # DICOM PS3.3 C.11.2.1.2: linear VOI LUT
            low = (center - 0.5 - (width - 1) / 2 - intercept) / slope
            span = (width - 1) / slope
    return low, span, inverted


def _first(value: object, default: float) -> object:
    if isinstance(value, list):
        value = value[0] if value else None
    return default if value is None else value


def to_unit(pixels: np.ndarray, bits: int, dicom: dict | None = None) -> np.ndarray:
    """The image as shown.

    Args:
        pixels: (H, W) stored values.
        bits: significant bits.
        dicom: display attributes; the first window is used, MONOCHROME1 is inverted. Without a window, the full range.

    Returns:
        (H, W) float32 in [0, 1].
    """
    low, span, inverted = _window(bits, dicom)
    unit = np.clip((pixels.astype(np.float32) - low) / span, 0.0, 1.0).astype(np.float32)
    return 1.0 - unit if inverted else unit


def stored_delta(delta: np.ndarray, pixels: np.ndarray, bits: int, dicom: dict | None = None) -> np.ndarray:
    """A perturbation in stored values.

    Args:
        delta: (H, W) in units of the display's full range.
        pixels: (H, W) stored values; the display's range counts for no more than :data:`REACH` times theirs, so that a window
            that is much wider than the image cannot drown it.
        bits: significant bits.
        dicom: display attributes.

    Returns:
        (H, W) float64, to be added.
    """
    _, span, inverted = _window(bits, dicom)
    span = min(span, REACH * float(np.ptp(pixels)))
    return delta.astype(np.float64) * (-span if inverted else span)
