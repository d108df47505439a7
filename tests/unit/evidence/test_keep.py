"""What is kept for updates. What the first version wrote must be readable for as long as there is a medmark."""

import json
import shutil
import stat
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_up_run import make_run, pixels, write_table
from medmark.components.base.digests import canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.codecs import encode_png
from medmark.components.dataset.drop import read_drop
from medmark.components.dataset.origin import past_digest, read_origins, read_past, read_patient_key
from medmark.components.dataset.release import Release
from medmark.components.evidence.evidence import read_evidence
from medmark.components.evidence.keep import Original, keep_for_updates, read_keep, read_originals
from medmark.components.surrogate.models import load_models

FIXTURES = Path(__file__).parents[2] / "fixtures"
KEEP, RELEASE = FIXTURES / "keep-v1", FIXTURES / "updated-release-v1"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


def test_the_keep_of_a_first_marking(run):
    keep, evidence = read_keep(run / "keep"), read_evidence(run / "evidence")
    counts = Release(run / "release").counts["train"]
    assert keep["release_digest"] == Release(run / "release").digest
    assert keep["shares"] == {
        "mark": evidence["marked_images"] / counts["normal"],
        "decoy": evidence["decoy_images"] / counts["pneumonia"],
    }
    assert set(keep["files"]) == {
        "originals.parquet", "sources.parquet", "patients.json", "surrogates/models.json",
        "surrogates/surrogate-00.safetensors",
    }  # fmt: skip
    assert stat.S_IMODE((run / "keep").stat().st_mode) == 0o700
    ((entry, model),) = load_models(run / "keep" / "surrogates")
    assert (entry["name"], model.size) == ("surrogate-00", 32)


def test_it_belongs_to_one_release(run, tmp_path):
    keep = keep_for_updates(
        run / "clean", run / "release", run / "evidence", run / "origins", run / "models", tmp_path / "k"
    )
    assert keep == read_keep(run / "keep")


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(KEEP, tmp_path / "keep")
    return tmp_path / "keep"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema_version", 2),
        ("files", {}),
        ("files", []),
        ("files", {"../../etc/passwd": "0" * 64}),
        ("files", None),
        ("shares", {"mark": 0.1}),
        ("shares", {"mark": 1.5, "decoy": 0}),
        ("shares", {"mark": "nan", "decoy": 0}),
        ("shares", {"mark": [], "decoy": 0}),
        ("release_digest", ...),
    ],
)
def test_a_damaged_list_is_one_line(copy, field, value):
    keep = json.loads((copy / "keep.json").read_bytes())
    if field == "files" and value:
        value = keep["files"] | value
    keep[field] = value
    if value is ...:
        del keep[field]
    (copy / "keep.json").write_bytes(canonical_json(keep))
    with pytest.raises(MedmarkError, match="keep") as refusal:
        read_keep(copy)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_no_list_at_all(copy, content):
    (copy / "keep.json").write_bytes(content)
    with pytest.raises(MedmarkError, match="no readable keep.json.*backup"):
        read_keep(copy)


@pytest.mark.parametrize("file", ["sources.parquet", "patients.json", "past.json", "surrogates/models.json"])
def test_changed_missing_and_foreign_files(copy, file):
    content = (copy / file).read_bytes()
    (copy / file).write_bytes(content + b" ")
    with pytest.raises(MedmarkError, match=f"changed or missing: .*{file}.*backup"):
        read_keep(copy)
    (copy / file).unlink()
    with pytest.raises(MedmarkError, match=f"changed or missing: .*{file}"):
        read_keep(copy)
    outside = copy.parent / "outside"
    outside.write_bytes(content)
    (copy / file).symlink_to(outside)
    with pytest.raises(MedmarkError, match=f"changed or missing: .*{file}"):
        read_keep(copy)


# frozen formats


def test_the_first_keep_is_read():
    keep = read_keep(KEEP)
    assert keep["shares"] == {"decoy": 0.2, "mark": 0.42857142857142855}
    assert keep["release_digest"] == Release(RELEASE).digest
    origins = {origin.image_id: origin for origin in read_origins(KEEP)}
    assert len(origins) == 40 and origins["i023-e45d8833"].source == "scans/i023.png"
    assert origins["i023-e45d8833"].sha256 == "f464ae5fb705523daafedd684d1cb75bacc5f3d5546ed5993424b175c8217e5f"
    key = read_patient_key(KEEP)
    assert key == "c0ffee" * 8
    past = read_past(KEEP)
    assert sorted(past.values(), key=str) == [None, None, None, "i007-22851802"]
    old = "9b66c4c56776de0647c87da447811a44e269a975821c46d05bfc257fa5d26529"
    assert past[old] == "i007-22851802" and past_digest(origins["i023-e45d8833"].image_sha256, key) not in past


def test_the_first_list_of_changes_is_read():
    release = Release(RELEASE)
    release.verify()
    assert release.digest == "b12ba9a75851d9ef63a0cca1759413467a1098cb9ccea9c91e67263a18c32b45"
    changes = release.read_changes()
    assert changes["schema_version"] == 1 and changes["parent"] == release.parent
    assert changes["added"] == ["new-a-db9bd08b", "new-b-8b1bae62"] and changes["changed"] == ["i007-22851802"]
    assert changes["withdrawn"] == changes["tombstones"] == ["i000-fba375ff", "i015-dd8d5edf"]
    assert changes["drop"] == "7aef93fc8800109dc35ff695cfc0388cc338872a8cb8ed72f90426cd8871f16c"
    (rejected,) = pq.read_table(RELEASE / "rejected.parquet").to_pylist()
    assert rejected["source"] == "scans/bad.png"


def test_a_release_of_the_first_schema_gets_no_update(tmp_path):
    """Its new images would get ids of another kind beside ids that hold file names."""
    drop = write_table(tmp_path / "d", [("scans/new-c.png", "normal", "new-a", pixels(200))])
    with pytest.raises(MedmarkError, match="image ids hold file names.*cannot be updated.*medmark reissue"):
        read_drop(drop, RELEASE, KEEP, tmp_path / "o", label_column="label")


def test_what_is_written_today_is_of_the_same_form(run):
    frozen, now = json.loads((KEEP / "keep.json").read_bytes()), json.loads((run / "keep" / "keep.json").read_bytes())
    assert frozen.keys() == now.keys() and frozen["schema_version"] == now["schema_version"]
    assert pq.read_schema(KEEP / "sources.parquet").equals(pq.read_schema(run / "keep" / "sources.parquet"))
    assert file_sha256(run / "keep" / "patients.json") == file_sha256(KEEP / "patients.json")


def test_originals_of_the_first_version_are_read():
    """The frozen format: one image that was never corrected, one that was."""
    first, second = read_originals(FIXTURES / "originals-v1")
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert first == Original("0" * 31 + "1", encode_png(image))
    covered, published = image.copy(), image.copy()
    covered[0, :4], published[8] = 0, published[8] + 1
    images = [encode_png(each) for each in (covered, image, published)]
    assert second == Original("0" * 31 + "2", *images)


def test_damaged_originals_are_refused(tmp_path):
    (tmp_path / "originals.parquet").write_bytes(b"PAR1")
    with pytest.raises(MedmarkError, match="unreadable: .*originals.parquet .*backup"):
        list(read_originals(tmp_path))
