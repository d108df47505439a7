"""Reading and writing images: :func:`decode_file` takes PNG, JPEG, TIFF and DICOM; a release holds PNG.

Input is hostile: sizes are checked before pixels are decoded, and a file that cannot be decoded ends in a one-line
:class:`MedmarkError`. What is particular to DICOM is in :mod:`medmark.components.dataset.dicom`.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from medmark.components.base.errors import MedmarkError
from medmark.components.base.text import reason_of
from medmark.components.dataset.decoded import MAX_FILE_BYTES, DecodedImage, check_size
from medmark.components.dataset.dicom import decode_dicom
from PIL import Image, UnidentifiedImageError


def decode_file(path: str | Path, *, mode: str = "L") -> DecodedImage:
    """Decodes one image file.

    Args:
        path: PNG, JPEG, TIFF or DICOM file; the content decides, not the name.
        mode: ``L`` for grey values, (H, W); ``RGB`` for colours, (H, W, 3) uint8: grey images of 8 bits are repeated, DICOM and
            16 bits are refused.

    Raises:
        MedmarkError: empty, truncated, too large, in colour, of a kind that cannot be decoded, or with a display window that
            cannot be right.
    """
    path = Path(path)
    if not path.is_file():
        raise MedmarkError(f"no such file: {path}; correct the path or remove the row that names it")
    size = path.stat().st_size
    if size == 0:
        raise MedmarkError(f"empty file (0 bytes): {path}; copy it again or remove it")
    if size > MAX_FILE_BYTES:
        raise MedmarkError(f"file too large: {path} has {size} bytes; at most {MAX_FILE_BYTES} are read, remove it")
    try:
        with open(path, "rb") as stream:
            head = stream.read(132)
    except OSError as error:
        raise MedmarkError(f"cannot be opened: {path} ({error.strerror}); make it readable or remove it") from error
    if head[128:] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom"):
        if mode == "RGB":
            raise MedmarkError(f"DICOM file among colour images: {path}; export it to PNG, or ingest grey images")
        return decode_dicom(path)
    return _decode_common(path, mode)


def _decode_common(path: Path, mode: str) -> DecodedImage:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG", "TIFF")) as image:
                check_size(image.width, image.height, path)
                image.load()
                decoded = _to_gray(image, path) if mode == "L" else _to_colour(image, path)
                if image.format == "TIFF" and _has_second_page(image):
                    raise MedmarkError(f"more than one page: {path}; export single images")
                return decoded
    except UnidentifiedImageError as error:
        raise MedmarkError(f"not an image that can be read: {path}; supply PNG, JPEG, TIFF or DICOM") from error
    except MedmarkError:
        raise
    except Exception as error:  # Pillow's readers raise many unrelated kinds
        raise MedmarkError(
            f"damaged or truncated image: {path} ({reason_of(error)}); copy it again or remove it"
        ) from error


def _has_second_page(image: Image.Image) -> bool:
    try:
        image.seek(1)
    except EOFError:
        return False
    return True


def _to_gray(image: Image.Image, path: Path) -> DecodedImage:
    if image.mode in ("L", "1"):
        return DecodedImage(np.asarray(image.convert("L")), 8)
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise MedmarkError(f"values outside 0..65535: {path}; convert it to 8 or 16 bit grayscale")
        return DecodedImage(pixels.astype(np.uint16), 16)
    if image.mode == "RGB":  # many exporters write gray as three equal channels
        pixels = np.asarray(image)
        if (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all():
            return DecodedImage(pixels[..., 0].copy(), 8)
    raise MedmarkError(f"colour image ({image.mode}) among grayscale: {path}; convert it to grayscale or remove it")


def _to_colour(image: Image.Image, path: Path) -> DecodedImage:
    if image.mode not in ("RGB", "L", "P"):
        raise MedmarkError(f"image of mode {image.mode} among colour images: {path}; convert it to RGB of 8 bits")
    return DecodedImage(np.asarray(image.convert("RGB")), 8)


def decode_mask(path: str | Path) -> np.ndarray:
    """Decodes the file of a mask.

    Args:
        path: PNG or TIFF of a single channel with at most two values, 0 for background and any other for foreground. A JPEG has
            values between, and is refused for that.

    Returns:
        (H, W) uint8, 0 or 1.

    Raises:
        MedmarkError: it cannot be decoded, or has other values.
    """
    pixels = decode_file(path).pixels
    values = np.unique(pixels)
    if len(values) > 2 or (len(values) == 2 and values[0] != 0):
        raise MedmarkError(
            f"no mask of two values: {path} has {len(values)}, from {values[0]} to {values[-1]}; save it as PNG with 0 for"
            " background"
        )
    return (pixels > 0).astype(np.uint8)


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes stored values as PNG, always by the same encoder.

    The PNG is written without compression (deflate level 0), so the size of a file tells only its width, height and
    depth and cannot tell a marked image from an unmarked one; the release's Parquet pages compress instead.

    Args:
        pixels: (H, W) uint8 or uint16, or (H, W, 3) uint8.
    """
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG", compress_level=0)
    return stream.getvalue()


def decode_png(data: bytes, *, mode: str = "L") -> np.ndarray:
    """Stored values of a release's image or mask.

    Args:
        data: PNG.
        mode: of the release's images: ``L`` for (H, W) uint8 or uint16, ``RGB`` for (H, W, 3) uint8.

    Raises:
        MedmarkError: not a PNG of this mode, or damaged.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            check_size(image.width, image.height, Path("release"))
            if image.mode not in (("RGB",) if mode == "RGB" else ("L", "I;16")):
                raise MedmarkError(f"image of a release has mode {image.mode}; get the release again")
            return np.asarray(image).copy()
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError) as error:
        raise MedmarkError(f"damaged image in a release ({error}); get the release again") from error
