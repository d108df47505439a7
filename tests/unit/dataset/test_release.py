import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.codecs import decode_png, encode_png
from medmark.components.dataset.release import Record, Release
from medmark.components.dataset.release_writer import ReleaseWriter

FIXTURE = Path(__file__).parents[2] / "fixtures" / "release-v1"
FIXTURE_DIGEST = "ffd28d8c3851cbec464b96d6ab8cf875d8720bc5c1d37d3fb8682d6ebc92dcd7"


def record(number: int = 0, *, value: int = 7, patient: str | None = None, **changes) -> Record:
    data = encode_png(np.full((16, 20), value, np.uint8))
    made = Record(
        image_id=f"image-{number}",
        image=data,
        encoding="png",
        label=number % 2,
        patient_id=patient or f"patient-{number}",
        split=("train", "val", "test")[number % 3],
        width=20,
        height=16,
        bits=8,
        sha256=hashlib.sha256(data).hexdigest(),
    )
    return replace(made, **changes)


def write(path, records, **header):
    options = {"name": "x", "version": "1", "class_names": ["a", "b"], **header}
    with ReleaseWriter(path, **options) as writer:
        for one in records:
            writer.add(one)
    return Release(path)


def test_records_come_back_as_they_went_in(tmp_path):
    given_ = [record(i, value=i) for i in range(9)]
    release = write(tmp_path / "r", given_)
    assert list(release.records()) == given_
    assert [r.image_id for r in release.records("val")] == ["image-1", "image-4", "image-7"]
    assert len(release) == 9
    assert release.counts["train"] == {"a": 2, "b": 1}
    release.verify()


def test_equal_content_gives_equal_digest_and_other_content_another(tmp_path):
    one = write(tmp_path / "1", [record(i) for i in range(4)])
    two = write(tmp_path / "2", [record(i) for i in range(4)])
    other = write(tmp_path / "3", [record(i, value=8) for i in range(4)])
    assert one.digest == two.digest != other.digest


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(16, 40), st.integers(16, 40), st.sampled_from([np.uint8, np.uint16]), st.integers(0, 2**32 - 1))
def test_pixels_survive_encoding(height, width, dtype, seed):
    pixels = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (height, width)).astype(dtype)
    back = decode_png(encode_png(pixels))
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, pixels)


def test_size_of_a_file_does_not_depend_on_its_content(rng):
    flat, noise = np.zeros((64, 48), np.uint8), rng.integers(0, 256, (64, 48)).astype(np.uint8)
    assert len(encode_png(flat)) == len(encode_png(noise))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": "image-0"}, "duplicate image id: image-0"),
        ({"image_id": "../escape"}, "bad image id"),
        ({"label": 2}, "label out of range: 2"),
        ({"label": -1}, "label out of range: -1"),
        ({"split": "dev"}, "unknown split: 'dev'"),
        ({"patient_id": "patient-0"}, "patient in two splits: patient-0"),
    ],
)
def test_writer_refuses(tmp_path, changes, message):
    with pytest.raises(MedmarkError, match=message):
        write(tmp_path / "r", [record(0), record(1, **changes)])
    assert not (tmp_path / "r" / "release.json").exists()
    with pytest.raises(MedmarkError, match="not a complete release"):
        Release(tmp_path / "r")


def test_writer_refuses_a_folder_in_use_and_a_single_class(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "mine.txt").write_text("keep")
    with pytest.raises(MedmarkError, match="not empty"):
        write(tmp_path / "r", [])
    with pytest.raises(MedmarkError, match="fewer than 2 classes"):
        write(tmp_path / "s", [], class_names=["a"])


def test_a_crash_leaves_no_release(tmp_path):
    with pytest.raises(RuntimeError), ReleaseWriter(tmp_path / "r", name="x", version="1", class_names=["a", "b"]) as w:
        w.add(record(0))
        raise RuntimeError("power cut")
    with pytest.raises(MedmarkError, match="no release.json"):
        Release(tmp_path / "r")


def test_verify_finds_every_changed_byte_of_a_shard(tmp_path, rng):
    release = write(tmp_path / "r", [record(i, value=i) for i in range(6)])
    shard = release.path / "shards" / "part-00000.parquet"
    original = shard.read_bytes()
    for position in rng.integers(0, len(original), 20):
        changed = bytearray(original)
        changed[position] ^= 0xFF
        shard.write_bytes(bytes(changed))
        with pytest.raises(MedmarkError, match="shard changed or missing"):
            release.verify()
    shard.write_bytes(original)
    release.verify()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"schema_version": 99}',
        '{"schema_version": 1}',
        "[" * 100_000,
        '{"schema_version": NaN}',
    ],
)
def test_hostile_manifest_is_refused(tmp_path, text):
    (tmp_path / "release.json").write_text(text)
    with pytest.raises(MedmarkError):
        Release(tmp_path)


def test_shards_outside_the_release_are_refused(tmp_path):
    release = write(tmp_path / "r", [record(0)])
    manifest = json.loads((release.path / "release.json").read_text())
    manifest["shards"][0]["file"] = "../../etc/passwd"
    (release.path / "release.json").write_text(json.dumps(manifest))
    with pytest.raises(MedmarkError, match="shard outside the release"):
        Release(release.path)


def test_releases_of_schema_1_are_read_for_ever(tmp_path):
    shutil.copytree(FIXTURE, tmp_path / "r")
    release = Release(tmp_path / "r")
    release.verify()
    assert release.digest == FIXTURE_DIGEST
    assert (release.name, release.version, release.class_names) == ("fixture", "1", ["normal", "pneumonia"])
    first = next(release.records())
    assert (first.image_id, first.split, first.bits) == ("image-0", "train", 8)
    np.testing.assert_array_equal(decode_png(first.image), np.full((16, 20), 7, np.uint8))
