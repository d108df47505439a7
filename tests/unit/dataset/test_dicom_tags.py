"""Free text of a header may name a person: only defined terms and numbers reach a release."""

import numpy as np
import pytest
from made_up_dicom import write_dicom
from medmark.components.dataset.codecs import decode_file
from medmark.components.errors import MedmarkError


def test_only_defined_terms_travel(tmp_path):
    tags = {"Modality": "JANE DOE", "BodyPartExamined": "MRS DOE", "ViewPosition": "DOE"}
    image = decode_file(write_dicom(tmp_path / "x.dcm", **tags, PatientName="Doe^Jane", StudyDescription="Doe"))
    assert "DOE" not in str(image.dicom).upper()
    tags = {"Modality": "DX", "BodyPartExamined": "CHEST", "ViewPosition": "PA"}
    image = decode_file(write_dicom(tmp_path / "y.dcm", **tags))
    assert {name: image.dicom[name] for name in tags} == tags


def test_numbers_are_bounded(tmp_path):
    many = ["0.1"] * 500
    image = decode_file(write_dicom(tmp_path / "x.dcm", PixelSpacing=many, ImagerPixelSpacing=["0.2", "0.2"]))
    assert "PixelSpacing" not in image.dicom
    np.testing.assert_allclose(image.dicom["ImagerPixelSpacing"], 0.2)
    image = decode_file(write_dicom(tmp_path / "y.dcm", raw=[("PixelSpacing", "DS", b"Doe\\nan ")]))
    assert "PixelSpacing" not in image.dicom


def test_burned_in_annotation_is_refused(tmp_path):
    with pytest.raises(MedmarkError, match="x.dcm.*BurnedInAnnotation"):
        decode_file(write_dicom(tmp_path / "x.dcm", BurnedInAnnotation="YES"))
    decode_file(write_dicom(tmp_path / "y.dcm", BurnedInAnnotation="NO"))
