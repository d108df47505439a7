"""The mark's strength follows the display window, so an implausible one is refused."""

from dataclasses import replace

import numpy as np
import pytest
from made_up_dicom import write_dicom
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset import dicom
from medmark.components.dataset.codecs import decode_file
from medmark.components.dataset.ingest import ingest
from medmark.components.dataset.release import Release
from medmark.components.dataset.release_writer import ReleaseWriter
from pydicom.dataset import Dataset


def raw(**tags):
    return {"raw": [(name, "DS", (value + " " * (len(value) % 2)).encode()) for name, value in tags.items()]}


@pytest.mark.parametrize(
    ("tags", "wrong"),
    [
        (raw(WindowWidth="1e400", WindowCenter="2048"), "WindowWidth"),
        (raw(WindowWidth="nan", WindowCenter="2048"), "WindowWidth"),
        (raw(WindowWidth="abc", WindowCenter="2048"), "WindowWidth"),
        (raw(WindowWidth="4096", WindowCenter="inf"), "WindowCenter"),
        (raw(RescaleSlope="1e999"), "RescaleSlope"),
        (raw(RescaleIntercept="nan"), "RescaleIntercept"),
        ({"RescaleSlope": "0"}, "RescaleSlope"),
        ({"RescaleSlope": "-1"}, "RescaleSlope"),
        ({"RescaleSlope": "0.001", "WindowCenter": "2048", "WindowWidth": "4096"}, "WindowWidth"),
        ({"WindowCenter": "2048", "WindowWidth": "65535"}, "WindowWidth"),
        ({"WindowCenter": "2048", "WindowWidth": "4"}, "WindowWidth"),
        ({"WindowCenter": "2048", "WindowWidth": "0"}, "WindowWidth"),
        ({"WindowCenter": "30000", "WindowWidth": "4096"}, "WindowCenter"),
        ({"VOILUTFunction": "SIGMOID", "WindowCenter": "2048", "WindowWidth": "4096"}, "VOILUTFunction"),
        ({"ModalityLUTSequence": [Dataset()]}, "ModalityLUTSequence"),
        ({"VOILUTSequence": [Dataset()]}, "VOILUTSequence"),
    ],
)
def test_an_implausible_window_is_refused(tmp_path, tags, wrong):
    with pytest.raises(MedmarkError, match=wrong) as refusal:
        decode_file(write_dicom(tmp_path / "x.dcm", **tags))
    assert "x.dcm" in str(refusal.value) and str(refusal.value).isprintable()


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"WindowCenter": "2048", "WindowWidth": "4096"},
        {"WindowCenter": ["2048", "40"], "WindowWidth": ["4096", "1"]},
        {"WindowCenter": "2000", "WindowWidth": "4300"},
        {"WindowCenter": "1024", "WindowWidth": "400", "RescaleIntercept": "-1024", "RescaleSlope": "1"},
        {"VOILUTSequence": [Dataset()], "WindowCenter": "2048", "WindowWidth": "4096"},
    ],
)
def test_a_usual_window_passes(tmp_path, tags):
    assert decode_file(write_dicom(tmp_path / "x.dcm", **tags)).bits == 12


def test_a_window_that_hides_the_image_is_refused():
    pixels = np.full((32, 32), 100, np.uint16)
    with pytest.raises(MedmarkError, match="of the pixels"):
        dicom.check_window(pixels, 12, {"WindowCenter": 3000, "WindowWidth": 1000})


@pytest.mark.parametrize(
    "dicom",
    [
        '{"WindowCenter": 128, "WindowWidth": NaN}',
        '{"WindowCenter": 128, "WindowWidth": 1e400}',
        '{"WindowCenter": {}, "WindowWidth": 256}',
        '{"RescaleSlope": "x"}',
        '{"PhotometricInterpretation": "PALETTE COLOR"}',
        '{"PatientName": "Doe"}',
        "[1]",
        "{",
        "[" * 100_000,
    ],
)
def test_hostile_attributes_of_a_release_are_refused(release, tmp_path, dicom):
    given = list(Release(release).records())
    given[3] = replace(given[3], dicom=dicom)
    with ReleaseWriter(tmp_path / "other", name="other", version="1", class_names=["normal", "pneumonia"]) as writer:
        for record in given:
            writer.add(record)
    with pytest.raises(MedmarkError, match=given[3].image_id) as refusal:
        ingest(tmp_path / "other", tmp_path / "r")
    assert str(refusal.value).isprintable()
