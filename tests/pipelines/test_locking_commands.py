"""``medmark keys new --locking``, ``unlock``, ``grant`` and ``certificate``, with files of version 1 of every format."""

import json
import shutil
from pathlib import Path

import pytest
from medmark.components.dataset.release import Release
from medmark.components.lineage.keys import key_id, load_locking_private

FIXTURE = Path(__file__).parents[1] / "fixtures" / "locked-v1"
PASSPHRASE = "a passphrase for tests"


@pytest.fixture(autouse=True)
def passphrase(monkeypatch):
    monkeypatch.setenv("MEDMARK_KEY_PASSPHRASE", PASSPHRASE)


def test_unlocking_files_of_version_1(medmark, tmp_path):
    code, out, _ = medmark(
        "unlock",
        FIXTURE / "release",
        FIXTURE / "evidence",
        "--key",
        FIXTURE / "owner" / "locking.key",
        "--out",
        tmp_path / "u",
    )
    assert code == 0 and "4 images unlocked" in out
    opened = Release(tmp_path / "u")
    opened.verify()
    assert [r.sha256 for r in opened.records()] == json.loads((FIXTURE / "clean.json").read_bytes())
    code, _, err = medmark(
        "unlock", FIXTURE / "release", FIXTURE / "evidence" / "locks.parquet", "--key", FIXTURE / "clinic" / "locking.key",
        "--grant", FIXTURE / "clinic.grant", "--out", tmp_path / "c",
    )  # fmt: skip
    assert code == 0 and err == ""


def test_new_keys_and_grants(medmark, tmp_path):
    assert medmark("keys", "new", "--locking", "--out", tmp_path / "keys")[0] == 0
    own = load_locking_private(tmp_path / "keys" / "locking.key", PASSPHRASE)
    given = ["grant", FIXTURE / "evidence", "--key", FIXTURE / "owner" / "locking.key", "--out", tmp_path / "new.grant"]
    code, out, _ = medmark(*given, "--to", tmp_path / "keys" / "locking.pub")
    assert code == 0 and key_id(own.public_key())[:16] in out
    assert (tmp_path / "new.grant").stat().st_mode & 0o77 == 0
    parts = [FIXTURE / "release", FIXTURE / "evidence" / "locks.parquet", "--key", tmp_path / "keys" / "locking.key"]
    assert medmark("unlock", *parts, "--grant", tmp_path / "new.grant", "--out", tmp_path / "u")[0] == 0
    code, _, err = medmark("unlock", FIXTURE / "release", FIXTURE / "evidence", *parts[2:], "--out", tmp_path / "x")
    assert code == 1 and "no grant for this key" in err and err.count("\n") == 1
    code, _, err = medmark(*given[:-1], tmp_path / "y", "--to", FIXTURE / "medmark.pub")
    assert code == 1 and "public key is not for locking" in err
    code, _, err = medmark("unlock", *parts[:2], "--key", FIXTURE / "medmark.pub", "--out", tmp_path / "z")
    assert code == 1 and "private key" in err


def test_certificates(medmark, tmp_path):
    shutil.copytree(FIXTURE / "release", tmp_path / "release")
    assert medmark("export", tmp_path / "release", "--out", tmp_path / "files")[0] == 0
    image = sorted((tmp_path / "files").rglob("*.png"))[0]
    file = tmp_path / "c.json"
    assert (
        medmark("certificate", "issue", tmp_path / "release", FIXTURE / "evidence", image.stem, "--out", file)[0] == 0
    )
    code, out, _ = medmark(
        "certificate", "verify", image, "--certificate", file, "--public-key", FIXTURE / "medmark.pub"
    )
    assert code == 0 and f"in fixture, {Release(FIXTURE / 'release').digest}" in out
    kept = FIXTURE / "certificate.json"
    first = sorted((tmp_path / "files").rglob(f"{json.loads(kept.read_bytes())['entry']['image_id']}.png"))[0]
    assert (
        medmark("certificate", "verify", first, "--certificate", kept, "--public-key", FIXTURE / "medmark.pub")[0] == 0
    )
    assert medmark("keys", "new", "--out", tmp_path / "keys")[0] == 0
    (tmp_path / "release" / "certificates.json").unlink()
    signing = [
        "certificate",
        "sign",
        tmp_path / "release",
        FIXTURE / "evidence",
        "--key",
        tmp_path / "keys" / "medmark.key",
    ]
    assert medmark(*signing)[0] == 0
    code, _, err = medmark(
        "certificate", "issue", FIXTURE / "release", FIXTURE / "evidence", "nobody", "--out", tmp_path / "n"
    )
    assert code == 1 and "no image nobody" in err
