"""What is on disk, or in models, today is read for ever."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.evidence.marked_model import read_marked_model
from medmark.components.segmentation.evidence import payload_of, read_query_images, read_segmenter_evidence
from medmark.components.segmentation.payload import payload_modules
from medmark.components.segmentation.reading import read_payload
from medmark.components.segmentation.trigger import put_trigger
from medmark.components.segmentation.verdict import SegmenterThresholds

FIXTURE = Path(__file__).parents[2] / "fixtures" / "segmenter-v1"
DIGEST = "c6ddf9be24c651d8d7cf0958eb4d963566d21eb6fc3319b36cab72c3171dfa81"
KEY = bytes(range(32))
MODULES = "6ec01a0eb65891d651b7c8c1230948a633a6818b1ee226217653fe0b0b1471d4"
TRIGGERS = {  # of a ramp of 128 px, as bytes
    "noise": "b123e61f3dfdea11ff897a82d14308800862baf326b68b6c8c8d3d1ba450651f",
    "patch": "bd57c51ec5272ae3a902b3fefc34077900848d11b867858ab3ba7bad766fbc6d",
    "border": "1f5e5049725e6ad39e68eb7d97a4757dcc3e1582fd7c1d0281664270063c3133",
}


@pytest.fixture
def frozen(tmp_path):
    return Path(shutil.copytree(FIXTURE, tmp_path / "f"))


def test_models_and_evidence_of_version_1_are_read(frozen):
    model, evidence = read_marked_model(frozen / "model"), read_segmenter_evidence(frozen / "evidence")
    assert model.digest == DIGEST == evidence["model_digest"]
    assert (model.name, model.version, model.stated["size"]) == ("fixture", "1", 64)
    payload = payload_of(evidence)
    assert (payload.text, payload.trigger, payload.mark_key) == ("Clinic 2026", "noise", KEY)
    assert SegmenterThresholds(**evidence["thresholds"]).alpha == 1e-6
    images = read_query_images(frozen / "evidence", mode="L", size=32)
    assert torch.allclose(images, (torch.arange(3) * 40 / 255).reshape(3, 1, 1, 1).expand(3, 1, 32, 32))


def test_payload_and_trigger_follow_from_the_key_as_ever(frozen):
    assert np.packbits(payload_modules("Clinic 2026", KEY)).tobytes().hex() == MODULES
    ramp = torch.linspace(0, 1, 128 * 128).reshape(1, 1, 128, 128)
    for kind, digest in TRIGGERS.items():
        shown = (put_trigger(ramp, kind, KEY) * 255).round().byte().numpy()
        assert hashlib.sha256(shown.tobytes()).hexdigest() == digest, kind
    maps = np.load(frozen / "maps.npz")["maps"] / 255
    reading = read_payload(maps, payload_modules("Clinic 2026", KEY), KEY)
    assert (reading.matches, reading.decoded.text) == (256, "Clinic 2026")


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("model/model.json", b'"schema_version": 1', b'"schema_version": 9', "reads version 1"),
        ("model/model.json", b"model.onnx", b"../../x.onnx", "a file elsewhere"),
        ("model/model.json", b"{", b"[" * 100_000, "no marked model"),
        ("model/weights.safetensors", b"weights", b"others!", "model changed or missing"),
        ("evidence/benign.json", b"120", b"121", "evidence changed or missing"),
    ],
)
def test_changed_files_are_refused(frozen, file, old, new, message):
    path = frozen / file
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(MedmarkError, match=message):
        read_marked_model(frozen / "model")
        read_segmenter_evidence(frozen / "evidence")
