"""Certificates of single images."""

import io
import json

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from medmark.components.base.digests import canonical_json
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.release import Release
from medmark.components.locking.certificate import issue_certificate, sign_certificates, verify_certificate
from medmark.components.locking.locks import read_locks
from PIL import Image


@pytest.fixture
def issued(locked, tmp_path):
    """Certificate and PNG file of the sixth image."""
    record = list(locked.records.values())[5]
    (tmp_path / "image.png").write_bytes(record.image)
    entry = issue_certificate(locked.release, locked.evidence, record.image_id, tmp_path / "certificate.json")
    return record, entry, tmp_path / "certificate.json", tmp_path / "image.png"


def test_one_image_is_verified_without_the_others(locked, issued):
    record, entry, certificate, image = issued
    found = verify_certificate(image, certificate, locked.signer.public_key())
    assert found["entry"] == entry and entry["image_id"] == record.image_id
    assert (found["index"], found["images"]) == (5, len(locked.records))
    assert found["release_digest"] == Release(locked.release).digest
    lock = next(lock for lock in read_locks(locked.evidence) if lock.image_id == record.image_id)
    assert (entry["x"], entry["y"], entry["alpha"], entry["logo"]) == (lock.x, lock.y, lock.alpha, lock.logo)
    stream = io.BytesIO()
    Image.open(image).save(stream, "PNG", optimize=True)  # saved anew by another program
    assert stream.getvalue() != image.read_bytes()
    image.write_bytes(stream.getvalue())
    assert verify_certificate(image, certificate, locked.signer.public_key()) == found


def test_forged_moved_and_reused_certificates_are_refused(locked, issued, tmp_path):
    record, entry, certificate, image = issued
    public, content = locked.signer.public_key(), json.loads(certificate.read_bytes())

    def refused(message, changed=content, key=public, picture=image):
        (tmp_path / "other.json").write_bytes(canonical_json(changed))
        with pytest.raises(MedmarkError, match=message):
            verify_certificate(picture, tmp_path / "other.json", key)

    refused("certificates of another signer", key=Ed25519PrivateKey.generate().public_key())
    for field, value in (("x", entry["x"] + 1), ("alpha", 3), ("salt", "00" * 32), ("locked_sha256", "0" * 64)):
        refused("certificate does not hold", {**content, "entry": {**entry, field: value}})
    refused("certificate does not hold", {**content, "index": 6})
    refused("certificate does not hold", {**content, "proof": content["proof"][1:]})
    refused("damaged certificate", {**content, "more": 1})
    refused("damaged certificates", {**content, "signed": content["signed"][:-2]})
    other = list(locked.records.values())[6]
    (tmp_path / "other.png").write_bytes(other.image)
    refused("certificate of another image", picture=tmp_path / "other.png")
    pixels = np.asarray(Image.open(image)).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(tmp_path / "changed.png")
    refused("certificate of another image", picture=tmp_path / "changed.png")
    (tmp_path / "none.png").write_bytes(b"x")
    refused("no PNG file", picture=tmp_path / "none.png")


def test_what_cannot_be_issued(locked, tmp_path, release):
    with pytest.raises(MedmarkError, match="no image"):
        issue_certificate(locked.release, locked.evidence, "nobody", tmp_path / "c.json")
    with pytest.raises(MedmarkError, match="already there"):
        sign_certificates(locked.release, locked.evidence, locked.signer)
    with pytest.raises(MedmarkError, match="evidence of another release"):
        sign_certificates(locked.clean.path, locked.evidence, locked.signer)


def test_each_entry_has_a_salt_of_its_own(locked):
    locks = read_locks(locked.evidence)
    assert len({lock.salt for lock in locks}) == len(locks) and all(len(lock.salt) == 32 for lock in locks)
