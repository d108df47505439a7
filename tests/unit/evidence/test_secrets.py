import base64
import hashlib
import json
import os
import stat
from dataclasses import replace

import pytest
from medmark.components.base.errors import MedmarkError
from medmark.components.evidence.secrets import RUN_KEY, Secrets, draw_secrets, read_secrets, resolved, seeds_of

SEEDS_OF_7 = (65060660689305, 228026088423251, 242359827406732)
MARK_KEY_OF_7 = "39e1e5ad4624b834a48df0189d6fc826ffd363c1c89ebb6e9454e14a322e2197"
DRAWN = Secrets(seed=2**47 + 1, ingest_seed=2, models_seed=3, patient_key="ab" * 32, mark_key="cd" * 32)


def test_secrets_are_drawn_apart_and_hard_to_guess(tmp_path):
    for name in "abcdefgh":
        draw_secrets(tmp_path / name, None)
    drawn = [read_secrets(tmp_path / name) for name in "abcdefgh"]
    seeds = [n for secret in drawn for n in (secret.seed, secret.ingest_seed, secret.models_seed)]
    keys = [int(key, 16) for secret in drawn for key in (secret.patient_key, secret.mark_key)]
    assert len(set(seeds)) == 24 and len(set(keys)) == 16
    assert max(seeds) > 2**46 and max(keys) > 2**253
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


def test_a_given_seed_gives_all_but_the_patients_key_and_the_files_digest_does_not_tell_it(tmp_path):
    """The numbers are frozen: other ones, and a seed would no longer give the release that it gave."""
    for name in "ab":
        draw_secrets(tmp_path / name, 7)
    one, two = (read_secrets(tmp_path / name) for name in "ab")
    assert replace(one, patient_key="") == replace(two, patient_key="") == Secrets(*SEEDS_OF_7, "", MARK_KEY_OF_7)
    assert one.patient_key != two.patient_key and min(len(s.patient_key) for s in (one, two)) == 64
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()


def test_the_patients_key_can_be_given(tmp_path):
    for name in "ab":
        draw_secrets(tmp_path / name, None, tmp_path / "patients.json")
    keys = {read_secrets(tmp_path / name).patient_key for name in "ab"}
    assert keys == {json.loads((tmp_path / "patients.json").read_bytes())["key"]}
    assert stat.S_IMODE((tmp_path / "patients.json").stat().st_mode) == 0o600


def test_guessing_a_seed_is_dear(monkeypatch):
    """Whoever sees splits can check a guess; one takes 128 MiB and, where this was measured, 0.4 s."""
    calls, scrypt = [], hashlib.scrypt
    monkeypatch.setattr(hashlib, "scrypt", lambda *given, **how: calls.append(how) or scrypt(*given, **how))
    found = [seeds_of(2**40 + n) for n in range(2)]
    assert len(calls) == 2 and all(how["n"] * how["r"] * 128 >= 1 << 27 and how["p"] >= 1 for how in calls)
    values = [value for seeds in found for value in seeds.values()]
    assert len(set(values)) == 6 and max(values) > 2**46  # each of its own, none tells another


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_secrets_are_their_owners_whatever_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        (tmp_path / "a").write_text("left by somebody")
        draw_secrets(tmp_path / "a", None)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


def test_references_become_secrets_at_any_depth():
    given = [{"seed": {"$secret": "models_seed", "plus": 100.0}, "share": 0.5, "size": 64.0}, {"$secret": "seed"}]
    assert resolved(given, DRAWN) == [{"seed": 103, "share": 0.5, "size": 64}, 2**47 + 1]
    assert resolved({"key": {"$secret": "patient_key"}}, DRAWN) == {"key": "ab" * 32}
    assert resolved({"size": 64.0, "where": {"secret": "seed"}}, None) == {"size": 64, "where": {"secret": "seed"}}


@pytest.mark.parametrize(("value", "drawn"), [({"$secret": "salt"}, DRAWN), ([{"$secret": "seed"}], None)])
def test_an_unknown_secret_is_refused(value, drawn):
    with pytest.raises(MedmarkError, match="no secret '.*' for this step"):
        resolved(value, drawn)


@pytest.mark.parametrize("content", [None, b"{}", b"[]", b"not json", json.dumps({"seed": 1234567}).encode()])
def test_a_damaged_file_is_refused_and_not_shown(tmp_path, content):
    if content is not None:
        (tmp_path / "secrets.json").write_bytes(content)
    with pytest.raises(MedmarkError, match="no secrets: ") as refused:
        read_secrets(tmp_path / "secrets.json")
    assert "1234567" not in str(refused.value)


def test_with_a_key_the_file_tells_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv(RUN_KEY, base64.b64encode(bytes(32)).decode())
    draw_secrets(tmp_path / "secrets", 7)
    content = (tmp_path / "secrets").read_bytes()
    assert replace(read_secrets(tmp_path / "secrets"), patient_key="") == Secrets(*SEEDS_OF_7, "", MARK_KEY_OF_7)
    assert b"seed" not in content and str(SEEDS_OF_7[0]).encode() not in content
    for other in (base64.b64encode(bytes(range(32))).decode(), None):
        monkeypatch.setenv(RUN_KEY, other) if other else monkeypatch.delenv(RUN_KEY)
        with pytest.raises(MedmarkError, match="secrets") as refused:
            read_secrets(tmp_path / "secrets")
        assert "start" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("key", ["c2hvcnQ=", "no base64", base64.b64encode(bytes(33)).decode()])
def test_what_is_no_key_is_refused_and_not_shown(tmp_path, monkeypatch, key):
    monkeypatch.setenv(RUN_KEY, key)
    with pytest.raises(MedmarkError, match="openssl rand -base64 32") as refused:
        draw_secrets(tmp_path / "secrets", None)
    assert key not in str(refused.value) and not (tmp_path / "secrets").exists()


def test_a_step_on_a_cluster_draws_no_secrets_without_a_key(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDMARK_IMAGE", "registry.example/medmark@sha256:" + "ab" * 32)
    with pytest.raises(MedmarkError, match="kubectl create secret generic medmark-run"):
        draw_secrets(tmp_path / "secrets", None)
    assert not (tmp_path / "secrets").exists()
