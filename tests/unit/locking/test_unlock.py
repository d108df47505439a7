"""Unlocking: bit by bit with the right key, and never otherwise."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.release import Record, Release, with_pixels
from medmark.components.dataset.release_writer import ReleaseWriter
from medmark.components.locking.lock import LockOptions, lock_release
from medmark.components.locking.locks import read_locks, write_locks
from medmark.components.locking.seal import open_grant, release_key, seal, unseal, write_grant
from medmark.components.locking.tampering import KINDS, accepted, tampered
from medmark.components.locking.unlock import grant_access, read_grant_file, unlock, unlock_release
from medmark.components.surrogate.models import train_models
from medmark.components.surrogate.training import TrainConfig


@pytest.mark.parametrize("who", ["owner", "clinic"])
def test_every_bit_comes_back(locked, tmp_path, who):
    opened = unlock_release(locked.release, locked.evidence, tmp_path / "out", getattr(locked, who))
    opened.verify()
    assert opened.parent == Release(locked.release).digest
    clean = {record.image_id: record for record in locked.clean.records()}
    assert len(opened) == len(clean)
    for record in opened.records():
        assert record == clean[record.image_id]


def test_images_of_16_bits_come_back(locked, tmp_path):
    rng = np.random.default_rng(0)
    display = {"WindowCenter": 1500, "WindowWidth": 1800, "PhotometricInterpretation": "MONOCHROME1"}
    with ReleaseWriter(tmp_path / "grey", name="grey", version="1", class_names=["a", "b"]) as writer:
        for i in range(40):
            pixels = rng.integers(600, 2400, (70, 90)).astype(np.uint16)
            empty = Record(f"i{i:02d}", b"", "png", i % 2, f"p{i}", ("train", "val", "test")[i % 3], 90, 70, 12, "",
                           json.dumps(display, sort_keys=True))  # fmt: skip
            writer.add(with_pixels(empty, pixels))
    train_models(tmp_path / "grey", tmp_path / "models", configs=[TrainConfig("net", size=32, epochs=1)])
    lock_release(tmp_path / "grey", tmp_path / "models", tmp_path / "locked", tmp_path / "evidence", locked.options)
    assert {lock.lesions_from for lock in read_locks(tmp_path / "evidence")} == {"saliency"}
    opened = unlock_release(tmp_path / "locked", tmp_path / "evidence", tmp_path / "out", locked.owner)
    assert list(opened.records()) == list(Release(tmp_path / "grey").records())


def test_another_key_opens_nothing(locked, tmp_path):
    with pytest.raises(MedmarkError, match="no grant for this key"):
        unlock_release(locked.release, locked.evidence, tmp_path / "out", locked.stranger)
    given = grant_access(locked.evidence, locked.owner, locked.clinic.public_key())
    with pytest.raises(MedmarkError, match="grant for another key"):
        open_grant(given, locked.stranger)
    with pytest.raises(MedmarkError, match="grant was changed or is of another release"):
        open_grant(replace(given, release_digest="0" * 64), locked.clinic)
    stolen = replace(
        given, recipient=grant_access(locked.evidence, locked.owner, locked.stranger.public_key()).recipient
    )
    with pytest.raises(MedmarkError, match="grant was changed"):
        open_grant(stolen, locked.stranger)
    assert not (tmp_path / "out" / "release.json").exists()


def test_a_grant_opens_it_for_a_new_key_and_is_no_use_for_a_later_release(locked, tmp_path):
    new = X25519PrivateKey.generate()
    file = tmp_path / "new.grant"
    file.write_bytes(write_grant(grant_access(locked.evidence, locked.owner, new.public_key())))
    assert read_grant_file(file).release_digest == Release(locked.release).digest
    shutil.copy(locked.evidence / "locks.parquet", tmp_path / "locks.parquet")
    opened = unlock_release(locked.release, tmp_path / "locks.parquet", tmp_path / "out", new, grant_file=file)
    assert len(opened) == len(locked.clean)
    with pytest.raises(MedmarkError, match="no grant: .* is not the evidence"):
        unlock_release(locked.release, tmp_path / "locks.parquet", tmp_path / "out2", new)
    # revoked: the next release is locked without it, and the old grant does not fit
    small = tmp_path / "small"
    with ReleaseWriter.child(small, locked.clean, version="2") as writer:
        for record, _ in zip(locked.clean.records(), range(40), strict=False):
            writer.add(record)
    owner_only = {"owner": locked.options.recipients["owner"]}
    options = LockOptions(**{**vars(locked.options), "recipients": owner_only})
    lock_release(small, locked.models, tmp_path / "next", tmp_path / "private", options)
    with pytest.raises(MedmarkError, match="grant of another release"):
        unlock_release(tmp_path / "next", tmp_path / "private", tmp_path / "x", new, grant_file=file)
    with pytest.raises(MedmarkError, match="no grant for this key"):
        unlock_release(tmp_path / "next", tmp_path / "private", tmp_path / "y", locked.clinic)


def test_nothing_tampered_is_accepted(locked):
    """A changed image, lock, sealed part, key or place: refused, in all of a thousand cases."""
    key, rng = release_key(locked.options.mark_key, locked.clean.digest), np.random.default_rng(0)
    held = [(locked.records[lock.image_id], lock) for lock in read_locks(locked.evidence)]
    record, lock = held[0]
    unlock(record, lock, key, "RGB")  # as it is, it opens
    for kind in range(KINDS):
        given = tampered(record, lock, held, key, "RGB", kind, rng)
        assert given != (record, lock, key)
        with pytest.raises(MedmarkError, match="image was changed" if kind == 0 else "lock does not open"):
            unlock(*given, "RGB")
    assert accepted(held, key, "RGB", 1000, rng) == 0


def test_what_is_accepted_is_counted(locked, monkeypatch):
    held = [(locked.records[lock.image_id], lock) for lock in read_locks(locked.evidence)]
    monkeypatch.setattr("medmark.components.locking.tampering.unlock", lambda *_: None)  # takes everything
    assert accepted(held, b"k" * 32, "RGB", 16, np.random.default_rng(0)) == 16


def test_a_changed_release_is_refused_whole(locked, tmp_path):
    with ReleaseWriter.child(tmp_path / "changed", Release(locked.release), version="1") as writer:
        for record in Release(locked.release).records():
            writer.add(record)
    with pytest.raises(MedmarkError, match="grant of another release"):
        unlock_release(tmp_path / "changed", locked.evidence, tmp_path / "out", locked.owner)
    shutil.copytree(locked.evidence, tmp_path / "evidence")
    write_locks(tmp_path / "evidence", read_locks(locked.evidence)[1:])
    with pytest.raises(MedmarkError, match="evidence changed or missing"):
        unlock_release(locked.release, tmp_path / "evidence", tmp_path / "out", locked.owner)
    file = tmp_path / "g.json"
    file.write_bytes(write_grant(grant_access(locked.evidence, locked.owner, locked.owner.public_key())))
    with pytest.raises(MedmarkError, match="no lock of"):
        parts = (locked.release, tmp_path / "evidence" / "locks.parquet", tmp_path / "out")
        unlock_release(*parts, locked.owner, grant_file=file)
    (tmp_path / "damaged").write_bytes(Path(file).read_bytes()[:-3])
    with pytest.raises(MedmarkError, match="damaged grant"):
        read_grant_file(tmp_path / "damaged")
    (tmp_path / "locks.parquet").write_bytes(b"PAR1")
    with pytest.raises(MedmarkError, match="unreadable locks"):
        read_locks(tmp_path / "locks.parquet")


def test_sealing_is_bound_to_image_and_words():
    key = release_key("ab" * 32, "0" * 64)
    assert key != release_key("ab" * 32, "1" * 64)  # a recipient of one release cannot open the next
    sealed = seal(key, "image-1", b"content", b"bound")
    assert unseal(key, "image-1", sealed, b"bound") == b"content"
    assert seal(key, "image-1", b"content", b"bound") != sealed
    for other in (
        (key, "image-2", sealed, b"bound"),
        (key, "image-1", sealed, b"other"),
        (key, "image-1", b"", b"bound"),
    ):
        assert unseal(*other) is None
