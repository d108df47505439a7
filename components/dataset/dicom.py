"""DICOM: reading files, the display attributes that a release keeps, and what MONOCHROME1, rescale and window mean.

Input is hostile: header and codestream are checked before pixels are decoded, and what cannot be decoded ends in a one-line
:class:`MedmarkError`. Files are written in :mod:`medmark.components.dataset.export`.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from medmark.components.base.errors import MedmarkError
from medmark.components.base.text import printable, reason_of
from medmark.components.dataset.decoded import MAX_FILE_BYTES, MAX_PIXELS, DecodedImage, check_size

if TYPE_CHECKING:
    import pydicom

MAX_INFLATED = 2 * MAX_PIXELS + 16 * 1024**2  # a deflated DICOM: the largest image and its header
MAX_VALUES = 16  # ours: of one numeric attribute; more is no window and no spacing
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
GRAY = ("MONOCHROME1", "MONOCHROME2")
# Free text may name a person, so only these terms travel; DICOM PS3.3 C.7.3.1.1.1, PS3.16 Annex L, PS3.3 C.8.
TERMS = {
    "Modality": frozenset("CR CT DX IO IVUS MG MR NM OCT OP OPT PT PX RF RG SC US XA OT".split()),
    "BodyPartExamined": frozenset(
        "ABDOMEN ABDOMENPELVIS ANKLE AORTA ARM BLADDER BRAIN BREAST CALCANEUS CALF CAROTID CEREBELLUM CERVIX CHEEK CHEST"
        " CHESTABDOMEN CHESTABDPELVIS CLAVICLE COCCYX COLON CSPINE CTSPINE ELBOW ESOPHAGUS EXTREMITY EYE FACE FEMUR FINGER"
        " FOOT FOREARM GALLBLADDER HAND HEAD HEADNECK HEART HIP HUMERUS IAC ILEUM ILIUM JAW KIDNEY KNEE LARYNX LEG LIVER"
        " LSPINE LSSPINE LUNG MANDIBLE MAXILLA MEDIASTINUM MOUTH NECK NECKCHEST NOSE ORBIT OVARY PANCREAS PAROTID PATELLA"
        " PELVIS PENIS PHARYNX PROSTATE RECTUM RIB SACRUM SCALP SCAPULA SCLERA SCROTUM SELLA SHOULDER SIJOINT SINUS SKULL"
        " SPINE SPLEEN SSPINE STERNUM STOMACH TESTIS THIGH THUMB THYMUS THYROID TIBIA TIBFIB TLSPINE TMJ TOE TONGUE TRACHEA"
        " TSPINE UPRARM URETER URETHRA UTERUS VAGINA VULVA WHOLEBODY WRIST ZYGOMA".split()
    ),
    "ViewPosition": frozenset(
        "AP PA LL RL RLD LLD RLO LLO RAO LAO RPO LPO LATERAL LAT CC ML MLO LM LMO LMR XCC XCCL XCCM FB SIO ISO".split()
    ),
    "PhotometricInterpretation": frozenset(GRAY),
}
# Bounds of a plausible window, ours; real CR files have windows of 0.92 to 1 of their range that end up to 0.04 outside.
WIDEST = 1.1  # of what the stored bits can hold: wider, and a mark in display units exceeds what is seen
NARROWEST = 1 / 256  # likewise, and at least MIN_SPAN stored values
MIN_SPAN = 16
OUTSIDE = 0.25  # how far beyond the stored range a window may begin or end, as a share of the range
MIN_INSIDE = 0.01  # share of the pixels that must be neither black nor white


def read_dicom(path: Path, *, only: list[str] | None = None) -> pydicom.Dataset:
    """Reads a DICOM file; a deflated one is inflated up to :data:`MAX_INFLATED` bytes only.

    Args:
        path: file.
        only: keywords of the attributes to read, without the pixels; everything when None. A deflated file is always read
            whole.

    Raises:
        MedmarkError: the file is too large or damaged. Values are decoded when used, and may raise anything then.
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
                    return filereader.dcmread(stream, stop_before_pixels=only is not None, specific_tags=only)
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


def decode_dicom(path: Path) -> DecodedImage:
    """Decodes a DICOM file with one gray image.

    Raises:
        MedmarkError: header, codestream or display window cannot be right, or the file cannot be decoded.
    """
    from pydicom.pixels.utils import pixel_array

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
    """Refuses a header that medmark cannot decode or show, before pixels are decoded."""
    check_size(int(header.Columns), int(header.Rows), path)
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


def _display_attributes(header: pydicom.Dataset, path: Path) -> dict[str, Any]:
    """Takes defined terms and finite numbers from a header, and refuses a bad value that the display needs."""
    dicom: dict[str, Any] = {}
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


def _plain(value: Any) -> float | list[Any]:
    """Turns a DICOM number, or a list of them, into JSON.

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
    """Refuses a compressed frame whose size is not the header's: decoders allocate what the frame claims."""
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


def check_window(pixels: np.ndarray, bits: int, dicom: dict[str, Any] | None) -> None:
    """Refuses display attributes that would make a mark invisible, or ruin the image.

    Args:
        pixels: (H, W) stored values.
        bits: significant bits, 1 to 16.
        dicom: display attributes from a header or from a release's JSON, which may be hostile. None means the full range,
            which is never refused.

    Raises:
        MedmarkError: a name is not in :data:`DISPLAY_ATTRIBUTES`, a text not in :data:`TERMS`, a number is not finite, a slope
            is not positive, a width or centre does not fit the stored bits, or fewer than 1 % of the pixels are inside the
            window. The message names the attribute; the caller adds the file.
    """
    if dicom is None:
        return
    if not isinstance(dicom, dict) or not set(dicom) <= set(DISPLAY_ATTRIBUTES):
        raise MedmarkError("attributes that are none of a display; ingest the raw images")
    for name, value in dicom.items():
        if name in TERMS:
            if not isinstance(value, str) or value not in TERMS[name]:  # free text may name a person
                raise MedmarkError(f"{name} is none of the defined terms; ingest the raw images")
        else:
            for number in value if isinstance(value, list) else [value]:
                _number(name, number)
    values = {
        name: _number(name, dicom[name])
        for name in ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth")
        if name in dicom
    }
    if values.get("RescaleSlope", 1.0) <= 0:
        raise MedmarkError(f"RescaleSlope {values['RescaleSlope']:g} is not positive; export it with a positive slope")
    if not {"WindowWidth", "WindowCenter"} <= set(values):
        return
    full = float(2**bits)
    if values["WindowWidth"] <= 1:
        raise MedmarkError(f"WindowWidth {values['WindowWidth']:g} is not above 1; export it with its window or none")
    low, span, _ = shown_window(bits, dicom)
    least = max(NARROWEST * full, MIN_SPAN) - 1
    if not least <= span <= WIDEST * full:
        raise MedmarkError(
            f"WindowWidth {values['WindowWidth']:g} is {span:.4g} stored values, not {least:g} to {WIDEST * full:.0f} as"
            f" {bits} bits allow; correct it or RescaleSlope"
        )
    if not (-OUTSIDE * full <= low and low + span <= (1 + OUTSIDE) * full):
        raise MedmarkError(
            f"WindowCenter {values['WindowCenter']:g} puts the window at {low:.4g} to {low + span:.4g}, outside what {bits}"
            " bits hold; correct it or RescaleIntercept"
        )
    inside = float(((pixels > low) & (pixels < low + span)).mean())
    if inside < MIN_INSIDE:
        raise MedmarkError(
            f"WindowCenter and WindowWidth leave {inside:.1%} of the pixels between black and white, fewer than"
            f" {MIN_INSIDE:.0%}; correct them"
        )


def _number(name: str, value: Any) -> float:
    """Returns the first value as a finite number."""
    try:
        number = float(_first(value, math.nan))
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or abs(number) > 1e9:  # ours: float32 pixels lose their values beyond
        raise MedmarkError(f"{name} is not a number that can be used; correct it")
    return number


class ShownWindow(NamedTuple):
    """The range of stored values that a viewer shows.

    Attributes:
        low: stored value at the window's lower end.
        span: stored values from there to its upper end.
        inverted: MONOCHROME1, the lower end is shown white.
    """

    low: float
    span: float
    inverted: bool


def shown_window(bits: int, dicom: dict[str, Any] | None) -> ShownWindow:
    """Turns display attributes into stored values.

    Args:
        bits: significant bits, 1 to 16.
        dicom: display attributes that :func:`check_window` accepted. The first window counts; without one, the full range.
    """
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
    return ShownWindow(low, span, inverted)


def _first(value: Any, default: float) -> Any:
    if isinstance(value, list):
        value = value[0] if value else None
    return default if value is None else value


def dicom_patient(path: Path) -> str | None:
    """Reads the PatientID of a DICOM file; None for any other file, or without one.

    Raises:
        MedmarkError: the header cannot be read, or the id is not plain text.
    """
    if path.suffix.lower() not in (".dcm", ".dicom") or not path.is_file():
        return None
    header = read_dicom(path, only=["PatientID"])
    try:
        patient = str(header.get("PatientID") or "")
    except (ValueError, TypeError, LookupError, NotImplementedError) as error:
        raise MedmarkError(f"PatientID that cannot be read: {path}; name the patients in a CSV") from error
    if patient and printable(patient) != patient:
        raise MedmarkError(f"PatientID that is no plain text: {path}; name the patients in a CSV")
    return patient or None
