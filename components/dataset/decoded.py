"""What every decoder gives, and the sizes beyond which none goes on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from medmark.components.base.errors import MedmarkError

MAX_PIXELS = 64 * 1024**2  # 8k x 8k: larger than any radiograph; more is taken for a decompression bomb
MAX_FILE_BYTES = 512 * 1024**2  # arbitrary
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom")


@dataclass
class DecodedImage:
    """An image as stored.

    Attributes:
        pixels: (H, W) uint8 or uint16 stored values, no window applied, MONOCHROME1 not inverted; or (H, W, 3) uint8 colours.
        bits: significant bits, 1 to 16.
        dicom: display attributes (:data:`medmark.components.dataset.dicom.DISPLAY_ATTRIBUTES`) of a DICOM source, else None.
        patient: the DICOM PatientID, else None. Never written to a release; ingest turns it into a pseudonym.
        mask: (H, W) uint8, 0 or 1, of an image that has one.
    """

    pixels: np.ndarray
    bits: int
    dicom: dict[str, Any] | None = None
    patient: str | None = None
    mask: np.ndarray | None = None


def check_size(width: int, height: int, path: Path) -> None:
    """Refuses an image before its pixels are decoded.

    Raises:
        MedmarkError: smaller than 16x16, or more than :data:`MAX_PIXELS`.
    """
    if width < 16 or height < 16:
        raise MedmarkError(f"image too small: {path} is {width}x{height}; at least 16x16 pixels are needed, remove it")
    if width * height > MAX_PIXELS:
        raise MedmarkError(
            f"image too large: {path} is {width}x{height}; at most {MAX_PIXELS} pixels are read, remove it"
        )
