"""Reading and writing images: PNG, JPEG, TIFF and DICOM in, PNG out.

Everything here treats its input as hostile: sizes are checked before pixels are decoded, and a file that cannot be
decoded ends in a one-line :class:`MedmarkError`.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from medmark.components.base.errors import MedmarkError
from medmark.components.base.text import reason_of
from medmark.components.dataset.display import DISPLAY_ATTRIBUTES, GRAY, TERMS, check_window
from PIL import Image, UnidentifiedImageError

if TYPE_CHECKING:
    import pydicom

MAX_PIXELS = 64 * 1024**2  # 8k x 8k: larger than any radiograph; more is taken for a decompression bomb
MAX_FILE_BYTES = 512 * 1024**2  # arbitrary
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom")
MAX_INFLATED = 2 * MAX_PIXELS + 16 * 1024**2  # a deflated DICOM: the largest image and its header
MAX_VALUES = 16  # ours: of one numeric attribute; more is no window and no spacing


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
        return _decode_dicom(path)
    return _decode_common(path)


def _decode_common(path: Path) -> DecodedImage:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG", "TIFF")) as image:
                _check_size(image.width, image.height, path)
                image.load()
                decoded = _to_gray(image, path)
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


def read_dicom(path: Path, **options: object) -> pydicom.Dataset:
    """Reads a DICOM file; a deflated one is inflated up to :data:`MAX_INFLATED` bytes only.

    Args:
        path: file.
        options: ``stop_before_pixels`` and ``specific_tags`` of :func:`pydicom.dcmread`; a deflated file is read whole.

    Raises:
        MedmarkError: too large or damaged. Values are decoded when used, and may raise anything then.
    """
    from pydicom import filereader
    from pydicom.dataset import FileDataset
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise MedmarkError(f"file too large: {path}; at most {MAX_FILE_BYTES} bytes are read, remove it")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns of harmless non-conformance in old files
            with open(path, "rb") as stream:
                preamble = filereader.read_preamble(stream, False)
                meta = filereader._read_file_meta_info(stream)
                if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
                    stream.seek(0)
                    return filereader.dcmread(stream, **options)
                # dcmread would inflate without a limit
                inflater = zlib.decompressobj(-zlib.MAX_WBITS)
                data = inflater.decompress(stream.read(), MAX_INFLATED)
                if not inflater.eof:
                    raise MedmarkError(
                        f"deflated DICOM, truncated or larger than {MAX_INFLATED} bytes: {path}; export it without deflation"
                    )
                inflated = io.BytesIO(data)
                dataset = filereader.read_dataset(inflated, False, True)
                header = FileDataset(inflated, dataset, preamble, meta, False, True)
                header.set_original_encoding(False, True, dataset._character_set)
                return header
    except MedmarkError:
        raise
    except Exception as error:  # parsers and decoders behind pydicom raise many unrelated kinds
        raise _undecodable(path, error) from error


def _undecodable(path: Path, error: Exception) -> MedmarkError:
    return MedmarkError(f"DICOM that cannot be decoded: {path} ({reason_of(error)}); convert it with another tool")


def _decode_dicom(path: Path) -> DecodedImage:
    from pydicom.pixels import pixel_array

    header = read_dicom(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _check_header(header, path)
            bits = int(header.BitsStored)
            dicom = _display_attributes(header, path)
            _check_codestream(header, path)
            pixels = pixel_array(header, raw=True)
            patient = str(header.get("PatientID") or "") or None
    except MedmarkError:
        raise
    except Exception as error:
        raise _undecodable(path, error) from error
    if pixels.shape != (header.Rows, header.Columns) or int(pixels.max()) >= 2**bits:
        raise MedmarkError(f"pixel values outside its {bits} stored bits: {path}; export it again")
    try:
        check_window(pixels, bits, dicom)
    except MedmarkError as error:
        raise MedmarkError(f"implausible display window: {path}: {error}") from error
    return DecodedImage(pixels.astype(np.uint8 if bits <= 8 else np.uint16), bits, dicom, patient)


def _check_header(header: pydicom.Dataset, path: Path) -> None:
    """What must hold before pixels are decoded."""
    _check_size(int(header.Columns), int(header.Rows), path)
    if int(header.get("NumberOfFrames") or 1) != 1:
        raise MedmarkError(f"more than one frame: {path}; export single images")
    kind = str(header.get("PhotometricInterpretation", ""))
    if int(header.get("SamplesPerPixel", 1)) != 1 or kind not in GRAY:
        raise MedmarkError(
            f"colour DICOM among grayscale: {path}, neither MONOCHROME1 nor MONOCHROME2; convert it to grayscale or remove it"
        )
    if int(header.get("PixelRepresentation", 0)) != 0:
        raise MedmarkError(f"signed DICOM pixels: {path}; export it with unsigned pixels")
    allocated, bits = int(header.BitsAllocated), int(header.BitsStored)
    if allocated not in (8, 16) or not 1 <= bits <= allocated or int(header.get("HighBit", bits - 1)) != bits - 1:
        raise MedmarkError(f"BitsAllocated, BitsStored and HighBit do not fit together: {path}; export it again")
    if str(header.get("BurnedInAnnotation", "")).strip().upper() == "YES":
        raise MedmarkError(
            f"text burned into the image: {path} says BurnedInAnnotation YES; remove the text or the file"
        )
    function = str(header.get("VOILUTFunction") or "LINEAR")
    if function != "LINEAR":
        raise MedmarkError(f"VOILUTFunction is not LINEAR: {path}; export it with a linear window")
    if header.get("ModalityLUTSequence"):
        raise MedmarkError(f"ModalityLUTSequence: {path} is shown through a table; export it with the table applied")
    if header.get("VOILUTSequence") and not ("WindowCenter" in header and "WindowWidth" in header):
        raise MedmarkError(f"VOILUTSequence without a window: {path} is shown through a table; export it with a window")


def _display_attributes(header: pydicom.Dataset, path: Path) -> dict:
    """Defined terms and finite numbers; of the values that the display needs, a bad one is refused."""
    dicom = {}
    for name in DISPLAY_ATTRIBUTES:
        needed = name.startswith(("Window", "Rescale"))
        try:
            value = header.get(name)
            if value is None or str(value) == "":
                continue
            if name in TERMS:
                if str(value) in TERMS[name]:
                    dicom[name] = str(value)
                continue
            dicom[name] = _plain(value)
        except (TypeError, ValueError, OverflowError) as error:
            if needed:
                raise MedmarkError(f"{name} is not a finite number: {path}; correct it or export it again") from error
    return dicom


def _plain(value: object) -> object:
    """A DICOM number, or the list of them, as JSON.

    Raises:
        ValueError: not finite, or more than :data:`MAX_VALUES`.
    """
    if hasattr(value, "__iter__") and not isinstance(value, str):
        if not 1 <= len(value) <= MAX_VALUES:
            raise ValueError
        return [_plain(item) for item in value]
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return int(number) if number.is_integer() else number


def _check_codestream(header: pydicom.Dataset, path: Path) -> None:
    """Refuses a compressed frame that would become larger than the header says: decoders allocate what the frame claims."""
    from pydicom.encaps import get_frame
    from pydicom.uid import RLELossless

    syntax = header.file_meta.TransferSyntaxUID
    if not syntax.is_compressed or syntax.is_deflated:
        return
    frame = get_frame(header.PixelData, 0, number_of_frames=1)
    rows, columns = int(header.Rows), int(header.Columns)
    if syntax == RLELossless:
        if _rle_size(frame) > 2 * rows * columns * header.BitsAllocated // 8:
            raise MedmarkError(f"RLE frame larger than its header says: {path}; export it again")
        return
    size = _jpeg_2000_size(frame) or _jpeg_size(frame)
    if size != (columns, rows):
        raise MedmarkError(f"compressed frame of another size than its header says: {path}; export it again")


def _rle_size(frame: bytes) -> int:
    """Bytes that an RLE frame becomes, DICOM PS3.5 G; without its 64 bytes of header."""
    size, at = 0, 64
    while at < len(frame):
        head = frame[at]
        at += 2 + head if head < 128 else 2 if head > 128 else 1
        size += head + 1 if head < 128 else 257 - head if head > 128 else 0
    return size


def _jpeg_2000_size(frame: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG 2000 codestream (ISO 15444-1 A.5.1), None for anything else."""
    if frame[:4] != b"\xff\x4f\xff\x51":
        return None
    right, bottom, left, top = struct.unpack(">4I", frame[8:24])
    return right - left, bottom - top


def _jpeg_size(frame: bytes) -> tuple[int, int] | None:
    """Width and height that every frame header of a JPEG or JPEG-LS codestream gives, None without or with several."""
    sizes, at = set(), 2
    while at + 9 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == 0xDA:  # the scan begins
            break
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            height, width = struct.unpack(">HH", frame[at + 5 : at + 9])
            sizes.add((width, height))
        at += 2 + struct.unpack(">H", frame[at + 2 : at + 4])[0]
    return sizes.pop() if len(sizes) == 1 else None


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
