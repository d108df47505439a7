"""Small DICOM files for tests, whole or broken in one way."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian


def write_dicom(path: Path, *, side: int = 32, bits: int = 12, syntax=ExplicitVRLittleEndian, raw=(), **tags) -> Path:
    """A gray image with values over the whole range of ``bits``; ``raw`` is (keyword, VR, bytes) past all checks."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3"
    ds.Rows = ds.Columns = side
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = (8 if bits <= 8 else 16), bits, bits - 1
    pixels = np.random.default_rng(len(path.name)).integers(0, 2**bits, (side, side))
    ds.PixelData = pixels.astype(np.uint8 if bits <= 8 else np.uint16).tobytes()
    with pydicom.config.disable_value_validation():
        for name, value in tags.items():
            if value is None:
                del ds[name]
            else:
                setattr(ds, name, value)
        for name, vr, value in raw:
            tag = pydicom.tag.Tag(pydicom.datadict.tag_for_keyword(name))
            ds[tag] = pydicom.dataelem.RawDataElement(tag, vr, len(value), value, 0, False, True)
        ds.save_as(path, enforce_file_format=True)
    return path


def write_deflated(path: Path, data: bytes) -> Path:
    """A header that says deflated, and ``data`` after it."""
    write_dicom(path, syntax=DeflatedExplicitVRLittleEndian)
    whole = path.read_bytes()
    length = struct.unpack("<I", whole[140:144])[0]
    path.write_bytes(whole[: 144 + length] + data)
    return path


def deflate(size: int) -> bytes:
    """``size`` zeros, deflated."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = bytes(2**20)
    return b"".join(packer.compress(block) for _ in range(size // 2**20)) + packer.flush()
