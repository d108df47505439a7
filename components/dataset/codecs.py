"""Reading and writing images: PNG, JPEG, TIFF and DICOM in, PNG out.

Everything here treats its input as hostile: sizes are checked before pixels are decoded, and a file that cannot be
decoded ends in a one-line :class:`MedmarkError`.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from medmark.components.errors import MedmarkError
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 64 * 1024**2  # 8k x 8k: larger than any radiograph; more is taken for a decompression bomb
MAX_FILE_BYTES = 512 * 1024**2  # arbitrary
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom")
# What a viewer needs to show the stored values, and nothing that names a person, a place or a time.
DISPLAY_ATTRIBUTES = (
    "Modality",
    "BodyPartExamined",
    "ViewPosition",
    "PhotometricInterpretation",
    "BitsStored",
    "RescaleSlope",
    "RescaleIntercept",
    "WindowCenter",
    "WindowWidth",
    "PixelSpacing",
    "ImagerPixelSpacing",
)


@dataclass
class DecodedImage:
    """A grayscale image as stored.

    Attributes:
        pixels: (H, W) uint8 or uint16 stored values; no window applied, MONOCHROME1 not inverted.
        bits: significant bits, 1 to 16.
        dicom: display attributes (:data:`DISPLAY_ATTRIBUTES`) of a DICOM source, else None.
        patient: the DICOM PatientID, else None. Never written to a release; ingest turns it into a pseudonym.
    """

    pixels: np.ndarray
    bits: int
    dicom: dict | None = None
    patient: str | None = None


def decode_file(path: str | Path) -> DecodedImage:
    """Decodes one image file.

    Args:
        path: PNG, JPEG, TIFF or DICOM file; the content decides, not the name.

    Raises:
        MedmarkError: empty, truncated, too large, in colour, or of a kind that cannot be decoded.
    """
    path = Path(path)
    if not path.is_file():
        raise MedmarkError(f"no such file: {path}; correct the path or remove the row that names it")
    size = path.stat().st_size
    if size == 0:
        raise MedmarkError(f"empty file (0 bytes): {path}; copy it again or remove it")
    if size > MAX_FILE_BYTES:
        raise MedmarkError(f"file too large: {path} has {size} bytes; at most {MAX_FILE_BYTES} are read, remove it")
    with open(path, "rb") as stream:
        head = stream.read(132)
    if head[128:] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom"):
        return _decode_dicom(path)
    return _decode_common(path)


def _decode_common(path: Path) -> DecodedImage:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG", "TIFF")) as image:
                _check_size(image.width, image.height, path)
                image.load()
                return _to_gray(image, path)
    except UnidentifiedImageError as error:
        raise MedmarkError(f"not an image that can be read: {path}; supply PNG, JPEG, TIFF or DICOM") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MedmarkError(f"damaged or truncated image: {path} ({error}); copy it again or remove it") from error


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


def _decode_dicom(path: Path) -> DecodedImage:
    import pydicom
    from pydicom.pixels import pixel_array

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns of harmless non-conformance in old files
            header = pydicom.dcmread(path, stop_before_pixels=True)
            _check_size(int(header.Columns), int(header.Rows), path)
            if int(header.get("NumberOfFrames") or 1) != 1:
                raise MedmarkError(f"more than one frame: {path}; export single images")
            if int(header.get("SamplesPerPixel", 1)) != 1:
                raise MedmarkError(f"colour DICOM among grayscale: {path}; convert it to grayscale or remove it")
            pixels = pixel_array(path, raw=True)
    except MedmarkError:
        raise
    except Exception as error:  # decoders behind pydicom raise many unrelated kinds
        reason = " ".join(str(error).split())[:160]
        raise MedmarkError(f"DICOM that cannot be decoded: {path} ({reason}); convert it with another tool") from error
    bits = int(header.BitsStored)
    if int(header.get("PixelRepresentation", 0)) == 1:
        raise MedmarkError(f"signed DICOM pixels: {path}; export it with unsigned pixels")
    if not 1 <= bits <= 16 or pixels.ndim != 2 or int(pixels.max()) >= 2**bits:
        raise MedmarkError(f"pixel values outside its {bits} stored bits: {path}; export it again")
    dicom = {}
    for name in DISPLAY_ATTRIBUTES:
        value = header.get(name)
        if value not in (None, ""):
            dicom[name] = _plain(value)
    return DecodedImage(
        pixels.astype(np.uint8 if bits <= 8 else np.uint16), bits, dicom, str(header.get("PatientID") or "") or None
    )


def _plain(value: object) -> object:
    """A DICOM value as JSON: text, number, or the list of them."""
    if isinstance(value, str):
        return value
    if hasattr(value, "__iter__"):
        return [_plain(item) for item in value]
    number = float(value)
    return int(number) if number.is_integer() else number


def _check_size(width: int, height: int, path: Path) -> None:
    if width < 16 or height < 16:
        raise MedmarkError(f"image too small: {path} is {width}x{height}; at least 16x16 pixels are needed, remove it")
    if width * height > MAX_PIXELS:
        raise MedmarkError(
            f"image too large: {path} is {width}x{height}; at most {MAX_PIXELS} pixels are read, remove it"
        )


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes stored values as PNG, always by the same encoder.

    The PNG is written without compression (deflate level 0), so the size of a file tells only its width, height and
    depth and cannot tell a marked image from an unmarked one; the release's Parquet pages compress instead.

    Args:
        pixels: (H, W) uint8 or uint16.
    """
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG", compress_level=0)
    return stream.getvalue()


def decode_png(data: bytes) -> np.ndarray:
    """Stored values, (H, W) uint8 or uint16, of a release's image.

    Raises:
        MedmarkError: not a grayscale PNG, or damaged.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            _check_size(image.width, image.height, Path("release"))
            if image.mode not in ("L", "I;16"):
                raise MedmarkError(f"image of a release has mode {image.mode}; get the release again")
            return np.asarray(image).copy()
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError) as error:
        raise MedmarkError(f"damaged image in a release ({error}); get the release again") from error
