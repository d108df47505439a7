import json
import stat

import pytest
from medmark.components.errors import MedmarkError
from medmark.components.platform.secrets import Secrets, draw_secrets, read_secrets, resolved

DRAWN = Secrets(seed=2**47 + 1, ingest_seed=2, models_seed=3, patient_key="ab" * 32)


def test_secrets_are_drawn_apart_and_hard_to_guess(tmp_path):
    for name in "abcdefgh":
        draw_secrets(tmp_path / name, None)
    drawn = [read_secrets(tmp_path / name) for name in "abcdefgh"]
    seeds = [n for secret in drawn for n in (secret.seed, secret.ingest_seed, secret.models_seed)]
    keys = [int(secret.patient_key, 16) for secret in drawn]
    assert len(set(seeds)) == 24 and len(set(keys)) == 8
    assert max(seeds) > 2**46 and max(keys) > 2**253
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


def test_a_given_seed_gives_all_and_the_files_digest_does_not_tell_it(tmp_path):
    for name in "ab":
        draw_secrets(tmp_path / name, 7)
    assert read_secrets(tmp_path / "a") == read_secrets(tmp_path / "b") == Secrets(7, 7, 7, None)
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()


def test_references_become_secrets_at_any_depth():
    given = [{"seed": {"$secret": "models_seed", "plus": 100.0}, "share": 0.5, "size": 64.0}, {"$secret": "seed"}]
    assert resolved(given, DRAWN) == [{"seed": 103, "share": 0.5, "size": 64}, 2**47 + 1]
    assert resolved({"key": {"$secret": "patient_key"}}, Secrets(1, 1, 1, None)) == {"key": None}
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
