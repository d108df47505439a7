"""Prepared images: what learns from them learns what it would from the release, and damaged ones are refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from medmark.components.base.digests import file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.arrays import as_unit, load_arrays
from medmark.components.dataset.codecs import decode_png
from medmark.components.dataset.prepared import Prepared, byte_batches, load_bytes, open_images, prepare
from medmark.components.dataset.release import SPLITS, Release

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture(scope="module")
def prepared(release, tmp_path_factory):
    """At another size than the images have."""
    return prepare(release, tmp_path_factory.mktemp("prepared") / "prepared", size=48)


@pytest.mark.parametrize("split", SPLITS)
def test_they_hold_what_training_takes_from_the_release(release, prepared, split):
    whole = Release(release)
    kept, decoded = load_bytes(prepared, split=split, size=48), load_bytes(whole, split=split, size=48)
    assert kept.images.dtype == decoded.images.dtype == torch.uint8
    assert torch.equal(kept.images, decoded.images) and torch.equal(kept.labels, decoded.labels)
    assert (kept.image_ids, kept.patient_ids) == (decoded.image_ids, decoded.patient_ids)
    assert torch.equal(as_unit(kept.images), load_arrays(whole, split=split, size=48).images)
    assert (prepared.digest, prepared.class_names, len(prepared)) == (whole.digest, whole.class_names, len(whole))


def test_images_in_8_bits_that_need_no_resizing_are_learnt_from_as_they_are(release):
    pixels = [decode_png(record.image) for record in Release(release).records("val")]
    np.testing.assert_array_equal(load_bytes(Release(release), split="val", size=64).images[:, 0], pixels)


def test_colour_is_kept(tmp_path):
    release = Release(FIXTURES / "release-v4")
    kept = prepare(release.path, tmp_path / "prepared", size=8)
    assert kept.image_mode == "RGB" and kept.pixels().shape == (len(release), 3, 8, 8)
    split = next(release.records()).split
    assert torch.equal(load_bytes(kept, split=split, size=8).images, load_bytes(release, split=split, size=8).images)


def test_batches_come_in_the_releases_order(release, prepared):
    one, other = (list(byte_batches(images, 48, "test")) for images in (Release(release), prepared))
    assert [len(batch.records) for batch in other] == [len(batch.records) for batch in one] == [64, 56]
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.images, b.images)
        assert [(r.image_id, r.label, r.split, r.sha256) for r in a.records] == [
            (r.image_id, r.label, r.split, r.sha256) for r in b.records
        ]


def test_a_release_is_prepared_once_for_one_size(release, prepared, tmp_path):
    with pytest.raises(MedmarkError, match="prepared at 48 px: .*; prepare the release at 64"):
        load_bytes(prepared, split="train", size=64)
    with pytest.raises(MedmarkError, match="size 0 of prepared images; use 1 to 4096"):
        prepare(release, tmp_path / "none", size=0)
    with pytest.raises(MedmarkError, match="release for segmentation"):
        prepare(FIXTURES / "release-v3", tmp_path / "masks", size=8)


def test_the_same_release_gives_the_same_bytes(release, prepared, tmp_path):
    again = prepare(release, tmp_path / "again", size=48)
    assert file_sha256(again.path / "prepared.json") == file_sha256(prepared.path / "prepared.json")


def test_prepared_images_of_version_1_are_read_for_ever(tmp_path):
    made = prepare(FIXTURES / "release-v2", tmp_path / "made", size=8)
    kept = open_images(FIXTURES / "prepared-v1")
    assert isinstance(kept, Prepared) and kept.digest == made.digest == Release(FIXTURES / "release-v2").digest
    np.testing.assert_array_equal(kept.pixels(), made.pixels())
    assert list(kept.records()) == list(made.records())


def changed(prepared, folder, **fields):
    shutil.copytree(prepared.path, folder)
    said = json.loads((folder / "prepared.json").read_bytes())
    (folder / "prepared.json").write_text(json.dumps(said | fields))
    return folder


@pytest.mark.parametrize(
    "fields",
    [
        {"schema_version": 2},
        {"schema_version": True},
        {"release_digest": "x"},
        {"release_digest": None},
        {"class_names": ["one"]},
        {"class_names": "normal"},
        {"class_names": [1, 2]},
        {"image_mode": "CMYK"},
        {"image_mode": "RGB"},
        {"size": 47},
        {"size": 10**9},
        {"size": 48.0},
        {"images": 0},
        {"images": 10**12},
        {"files": {"images.bin": "a" * 64}},
        {"files": {"images.bin": "a" * 64, "../rows.parquet": "a" * 64}},
        {"files": None},
        {"more": 1},
    ],
)
def test_a_hostile_manifest_is_refused_in_one_line(prepared, tmp_path, fields):
    folder = changed(prepared, tmp_path / "hostile", **fields)
    with pytest.raises(MedmarkError, match="damaged prepared images: .*; prepare the release again") as refused:
        Prepared(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "rows",
    [
        {"image_id": "../x"},
        {"image_id": "twice"},
        {"image_id": None},
        {"label": 2},
        {"label": -1},
        {"label": None},
        {"split": "all"},
        {"sha256": "x"},
        {"patient_id": "x" * 10_000},
        {"patient_id": None},
    ],
)
def test_hostile_rows_are_refused_in_one_line(prepared, tmp_path, rows):
    folder = tmp_path / "hostile"
    shutil.copytree(prepared.path, folder)
    table = pq.read_table(folder / "rows.parquet")
    for name, value in rows.items():
        values = [value if number < 2 else old for number, old in enumerate(table[name].to_pylist())]
        table = table.set_column(table.column_names.index(name), name, pa.array(values, table.schema.field(name).type))
    pq.write_table(table, folder / "rows.parquet")
    said = json.loads((folder / "prepared.json").read_bytes())
    said["files"]["rows.parquet"] = file_sha256(folder / "rows.parquet")
    (folder / "prepared.json").write_text(json.dumps(said))
    with pytest.raises(MedmarkError, match="damaged prepared images") as refused:
        Prepared(folder)
    assert "\n" not in str(refused.value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_changed_byte_is_noticed(prepared, tmp_path, data):
    folder = tmp_path / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(prepared.path, folder)
    file = folder / data.draw(st.sampled_from(["images.bin", "rows.parquet", "prepared.json"]))
    content = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] ^= data.draw(st.integers(1, 255))
    else:
        del content[place:]
    file.write_bytes(content)
    try:
        found = Prepared(folder)
        taken = found.pixels().tobytes()
    except MedmarkError as refused:
        assert "\n" not in str(refused)
    else:  # a letter in the name of a class, or a blank
        assert file.name == "prepared.json" and taken == prepared.pixels().tobytes()


def test_a_missing_file_is_named(prepared, tmp_path):
    for name in ("images.bin", "rows.parquet"):
        shutil.copytree(prepared.path, tmp_path / name)
        (tmp_path / name / name).unlink()
        with pytest.raises(MedmarkError, match=f"damaged prepared images: .*{name}"):
            Prepared(tmp_path / name)
