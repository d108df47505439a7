"""Free text of a header may name a person: only defined terms and numbers reach a release."""

import numpy as np
import pytest
from made_up_dicom import write_dicom
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.codecs import decode_file
from medmark.components.dataset.dicom import check_window, dicom_patient


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


def test_a_patient_id_that_cannot_be_read_costs_the_row_not_the_split(tmp_path):
    """Taken for a patient of its own, it could land in another split than the patient's other images."""
    path = write_dicom(tmp_path / "a.dcm", PatientID="DOE\x07JANE")
    with pytest.raises(MedmarkError, match="PatientID .*a.dcm; name the patients in a CSV"):
        dicom_patient(path)


@pytest.mark.parametrize("value", ["DOE JANE 1961", 7, ["CHEST"], None])
def test_a_release_from_elsewhere_brings_no_free_text(value):
    with pytest.raises(MedmarkError, match="BodyPartExamined is none of the defined terms"):
        check_window(np.zeros((16, 16), np.uint8), 8, {"BodyPartExamined": value})
    check_window(np.zeros((16, 16), np.uint8), 8, {"BodyPartExamined": "CHEST", "PixelSpacing": [0.1, 0.1]})
