"""Exporting a release to files that other tools read: PNG or DICOM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from medmark.components.base.errors import MedmarkError
from medmark.components.base.progress import track
from medmark.components.dataset.codecs import decode_png, encode_png
from medmark.components.dataset.release import Record, Release

FORMATS = ("png", "dicom")


def export(release_dir: str | Path, out: str | Path, *, format: str = "png", split: str | None = None) -> int:
    """Writes ``<split>/<class>/<image_id>.png`` or ``.dcm``; every stored value is kept.

    A release for segmentation gives ``<split>/images/<image_id>.png`` or ``.dcm`` and ``<split>/masks/<image_id>.png`` instead, with 0
    and 255; one with masks of lesions ``<split>/images/<class>/`` and ``<split>/masks/<class>/``.

    DICOM files are Secondary Capture with the display attributes of the source, where it had some, and the release's
    pseudonym as PatientID.

    Args:
        release_dir: release to export.
        out: folder to make; must be empty or absent.
        format: ``png`` or ``dicom``.
        split: only this one; all when None.

    Returns:
        Number of files.

    Raises:
        MedmarkError: unknown format, colour images as DICOM, or the folder is not empty.
    """
    release, out = Release(release_dir), Path(out)
    if format not in FORMATS:
        raise MedmarkError(f"unknown format: {format!r}; use one of {', '.join(FORMATS)}")
    if format == "dicom" and release.image_mode != "L":
        raise MedmarkError(f"colour images are not written as DICOM: {release.path}; export them as png")
    if out.exists() and any(out.iterdir()):
        raise MedmarkError(f"not empty: {out}; choose a new folder for the export")
    count = 0
    for record in track(release.records(split), "exporting", len(release)):
        label = "" if release.task == "segmentation" else _folder_name(release.class_names[record.label])
        masked = "mask" in release.arrow_schema.names
        folder = out / record.split / ("images" if masked else "") / label
        folder.mkdir(parents=True, exist_ok=True)
        if record.mask is not None:
            masks = out / record.split / "masks" / label
            masks.mkdir(parents=True, exist_ok=True)
            (masks / f"{record.image_id}.png").write_bytes(encode_png(decode_png(record.mask) * np.uint8(255)))
        if format == "png":
            (folder / f"{record.image_id}.png").write_bytes(record.image)
        else:
            write_dicom(record, folder / f"{record.image_id}.dcm")
        count += 1
    return count


def _folder_name(name: str) -> str:
    cleaned = "".join(c if c.isalnum() or c in "-_ " else "_" for c in name).strip()
    return cleaned or "class"


def write_dicom(record: Record, path: Path) -> None:
    """Writes one image as uncompressed Secondary Capture DICOM (PS3.3 A.8.1)."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    pixels = decode_png(record.image)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    # from the content, so that exporting twice gives the same files
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[record.image_id, record.sha256])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=["study", record.patient_id])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["series", record.patient_id])
    dataset.PatientID = record.patient_id
    dataset.PatientName = ""
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.StudyDate = dataset.StudyTime = dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
    dataset.StudyID = ""
    dataset.SeriesNumber = dataset.InstanceNumber = "1"
    dataset.ConversionType = "WSD"
    dataset.Modality = "OT"
    dataset.PhotometricInterpretation = "MONOCHROME2"
    for keyword, value in (record.display or {}).items():
        if keyword != "BitsStored":
            setattr(dataset, keyword, value)
    dataset.SamplesPerPixel = 1
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = 8 * pixels.dtype.itemsize
    dataset.BitsStored = record.bits
    dataset.HighBit = record.bits - 1
    dataset.PixelRepresentation = 0
    dataset.PixelData = np.ascontiguousarray(pixels).tobytes() + (b"\0" if pixels.nbytes % 2 else b"")
    dataset["PixelData"].VR = "OB" if pixels.dtype == np.uint8 else "OW"
    dataset.save_as(path, enforce_file_format=True)
