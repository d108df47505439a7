import hashlib
import hmac
import stat
from pathlib import Path

import pytest
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.ingest import ingest
from medmark.components.dataset.origin import (
    Former,
    Origin,
    drop_digest,
    past_digest,
    read_former,
    read_origins,
    read_past,
    read_patient_key,
    write_origins,
)
from medmark.components.dataset.release import Release

FORMER = Path(__file__).parents[2] / "fixtures" / "former-v1"
ORIGINS = [Origin("a-1", "normal/a.png", "11" * 32, "22" * 32), Origin(None, "labels.csv", "33" * 32, None)]


def test_what_was_written_is_read_and_only_the_owner_may(tmp_path):
    past = {past_digest("44" * 32, "key"): None, past_digest("55" * 32, "key"): "a-1"}
    write_origins(tmp_path / "o", ORIGINS, patient_key="key", past=past)
    assert read_origins(tmp_path / "o") == ORIGINS
    assert read_patient_key(tmp_path / "o") == "key"
    assert read_past(tmp_path / "o") == past
    assert stat.S_IMODE((tmp_path / "o").stat().st_mode) == 0o700


def test_ids_from_before_a_reissue_stay_known(tmp_path):
    former = read_former(FORMER)
    assert former.withdrew("normal/Meyer Anna.png") and not former.withdrew("sick/Meyer Anna.png")
    assert former.patient("p7") == "13fadf2ef9dc22cd"
    write_origins(tmp_path, ORIGINS, patient_key="key", former=Former(former.key, former.tombstones))
    assert (tmp_path / "former.json").read_bytes() == (FORMER / "former.json").read_bytes()


def test_nothing_is_past_before_an_update(tmp_path):
    write_origins(tmp_path, ORIGINS, patient_key=None)
    assert read_past(tmp_path) == {} and read_patient_key(tmp_path) is None


def test_the_digest_is_that_of_sha256sum_or_keyed():
    lines = f"{'33' * 32}  labels.csv\n{'11' * 32}  normal/a.png\n"
    plain = hashlib.sha256(lines.encode()).hexdigest()
    assert drop_digest(reversed(ORIGINS), None) == drop_digest(ORIGINS, None) == plain
    keyed = hmac.new(b"key", b"medmark-drop\n" + lines.encode(), "sha256").hexdigest()
    assert drop_digest(reversed(ORIGINS), "key") == drop_digest(ORIGINS, "key") == keyed


def test_what_is_past_is_known_by_the_key_only():
    digests = {past_digest("44" * 32, key) for key in ("one", "other", None)}
    assert len(digests) == 3 and "44" * 32 not in digests


def test_every_raw_file_of_an_ingested_source_is_there(source, tmp_path):
    release = ingest(source, tmp_path / "r", private=tmp_path / "o", patient_key="secret")
    origins = {origin.image_id: origin for origin in read_origins(tmp_path / "o")}
    assert set(origins) == {r.image_id for r in release.records(columns=["image_id"])}
    for record in Release(tmp_path / "r").records():
        origin = origins[record.image_id]
        assert origin.image_sha256 == record.sha256
        assert origin.sha256 == hashlib.sha256((source / origin.source).read_bytes()).hexdigest()
    assert read_patient_key(tmp_path / "o") == "secret"


def test_a_release_gives_no_key(release, tmp_path):
    ingest(release, tmp_path / "r", private=tmp_path / "o")
    assert read_patient_key(tmp_path / "o") is None
    assert len(read_origins(tmp_path / "o")) == 120


@pytest.mark.parametrize("file", ["sources.parquet", "patients.json", "past.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"{}x", b'{"key": 1}', b"\xff" * 100, b"[" * 100_000])
def test_damage_is_one_line(tmp_path, file, content):
    write_origins(tmp_path, ORIGINS, patient_key="key", past={"0" * 64: None})
    (tmp_path / file).write_bytes(content)
    with pytest.raises(MedmarkError) as refusal:
        read_origins(tmp_path)
        read_patient_key(tmp_path)
        read_past(tmp_path)
    assert file in str(refusal.value) and "backup" in str(refusal.value) and "\n" not in str(refusal.value)
