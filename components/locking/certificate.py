"""Certificates: what was done to each image, as a Merkle list whose root the owner signs together with the release's digest.

The list itself is private: with place, opacity and logo an adversary could take the logo off again as far as it lets the image
through. Each entry has a salt, so its hash tells nothing. The owner hands out the certificate of a single image, which proves what it says
without the others.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from medmark.components.base.digests import HEX, canonical_json
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.codecs import decode_file, encode_png
from medmark.components.dataset.release import Release
from medmark.components.evidence.evidence import read_evidence
from medmark.components.lineage.dsse import Signed, check_signature, sign, understood
from medmark.components.lineage.files import parse_exact, read_small, write_new
from medmark.components.lineage.signing import Certify
from medmark.components.locking.evidence import KIND, read_lock_evidence
from medmark.components.locking.locks import PUBLIC_FIELDS, Lock, read_locks
from medmark.components.locking.merkle import inclusion_proof, root_from, root_of

CERTIFICATES = "certificates.json"
PREDICATE_TYPE = "urn:medmark:certificates:v1"
CERTIFICATE_SCHEMA_VERSION = 1
TREE = "RFC 9162, SHA-256"
MAX_IMAGES = 2**40


def certificates_root(locks: list[Lock]) -> str:
    """Returns the Merkle root of the certificates, hex."""
    return root_of([lock.certificate() for lock in locks]).hex()


def sign_certificates(release_dir: str | Path, evidence_dir: str | Path, key: Ed25519PrivateKey) -> str:
    """Signs the root of the certificates and writes ``certificates.json`` into the locked release; it may go out.

    Args:
        release_dir: the locked release.
        evidence_dir: its private evidence.
        key: see :func:`medmark.components.lineage.keys.load_private`.

    Returns:
        The root, hex.

    Raises:
        MedmarkError: the evidence is of another release, or the file is there already.
    """
    release, evidence = Release(release_dir), read_lock_evidence(evidence_dir)
    if evidence["release_digest"] != release.digest:
        raise MedmarkError(f"evidence of another release: {evidence_dir}; use the evidence made with {release_dir}")
    locks = read_locks(Path(evidence_dir))
    root, out = certificates_root(locks), release.path / CERTIFICATES
    predicate = {"images": len(locks), "root": root, "tree": TREE}
    write_new(out, sign(key, "certificates", out, release, PREDICATE_TYPE, predicate).data, 0o644)
    return root


def certifier(evidence_dir: str | Path) -> Certify | None:
    """Returns what signs the certificates of the release that evidence is about; None if that is no locked one.

    Args:
        evidence_dir: private evidence of any kind.

    Raises:
        MedmarkError: something is missing or changed.
    """
    return sign_certificates if read_evidence(evidence_dir).get("kind") == KIND else None


def issue_certificate(
    release_dir: str | Path, evidence_dir: str | Path, image_id: str, out_file: str | Path
) -> dict[str, Any]:
    """Writes the certificate of one image.

    Args:
        release_dir: the locked release with its ``certificates.json``.
        evidence_dir: its private evidence.
        image_id: the image.
        out_file: file to write.

    Returns:
        What the certificate says of the image.

    Raises:
        MedmarkError: the certificates are not signed, the evidence is not theirs, there is no such image, or the file exists.
    """
    signed, locks = _read_signed(Path(release_dir) / CERTIFICATES), read_locks(Path(evidence_dir))
    entries = [lock.certificate() for lock in locks]
    if root_of(entries).hex() != signed.predicate["root"]:
        raise MedmarkError(f"evidence of other certificates: {evidence_dir}; use the evidence made with {release_dir}")
    index = next((i for i, lock in enumerate(locks) if lock.image_id == image_id), None)
    if index is None:
        raise MedmarkError(f"no image {image_id} in {evidence_dir}; 'medmark export' names files by image id")
    content: dict[str, Any] = {
        "schema_version": CERTIFICATE_SCHEMA_VERSION,
        "entry": {**locks[index].stated(), "salt": locks[index].salt.hex()},
        "index": index,
        "proof": [step.hex() for step in inclusion_proof(entries, index)],
        "signed": signed.data.decode(),
    }
    write_new(out_file, canonical_json(content), 0o600)
    return content["entry"]


def verify_certificate(image: str | Path, certificate: str | Path, public_key: Ed25519PublicKey) -> dict[str, Any]:
    """Checks that an image is the one that a certificate is about, and that the owner signed for it; needs no other image.

    Args:
        image: PNG file of the locked image, as ``medmark export`` writes it or saved anew without loss.
        certificate: file of :func:`issue_certificate`.
        public_key: of the owner, see :func:`medmark.components.lineage.keys.load_public`.

    Returns:
        ``entry``, ``index``, ``images``, ``release_name``, ``release_digest`` and ``signed_by``.

    Raises:
        MedmarkError: the certificate is damaged, forged or of another image, or somebody else signed it.
    """
    path = Path(certificate)
    data = read_small(path, "certificate", "ask the owner for it again")
    try:
        content = parse_exact(data)
        entry, proof = content["entry"], [bytes.fromhex(step) for step in content["proof"]]
        if set(content) != {"schema_version", "entry", "index", "proof", "signed"} or content["schema_version"] != 1:
            raise ValueError("other fields, or another version")
        if set(entry) != {*PUBLIC_FIELDS, "salt"} or type(content["index"]) is not int:
            raise ValueError("other fields")
        signed_text = content["signed"].encode()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MedmarkError(f"damaged certificate: {path} ({error}); ask the owner for it again") from error
    signed = _understood(signed_text, path)
    check_signature(signed, public_key)
    root = root_from(canonical_json(entry), content["index"], signed.predicate["images"], proof)
    if root is None or root.hex() != signed.predicate["root"]:
        raise MedmarkError(
            f"certificate does not hold: {path} is not in the list that was signed; ask the owner for it again"
        )
    pixels = decode_file(image, mode="RGB" if _is_colour(image) else "L").pixels
    if hashlib.sha256(encode_png(pixels)).hexdigest() != entry["locked_sha256"]:
        raise MedmarkError(
            f"certificate of another image: {path} is not about the pixels of {image}; get the image as published"
        )
    return {
        "entry": entry,
        "index": content["index"],
        "images": signed.predicate["images"],
        "release_name": signed.release_name,
        "release_digest": signed.release_digest,
        "signed_by": signed.signed_by,
    }


def _is_colour(image: str | Path) -> bool:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(image, formats=("PNG",)) as opened:
            return opened.mode == "RGB"
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError) as error:
        raise MedmarkError(f"no PNG file: {image}; give the image as 'medmark export' writes it") from error


def _read_signed(path: Path) -> Signed:
    return _understood(read_small(path, "list of certificates", "sign it with 'medmark certificate sign'"), path)


def _understood(data: bytes, path: Path) -> Signed:
    signed = understood(data, "certificates", path, PREDICATE_TYPE)
    stated = signed.predicate
    if set(stated) != {"images", "root", "tree"} or stated["tree"] != TREE or not isinstance(stated["root"], str):
        raise MedmarkError(f"damaged certificates: {path} says other things than a list; get it again")
    if not HEX.fullmatch(stated["root"]) or type(stated["images"]) is not int or not 0 < stated["images"] < MAX_IMAGES:
        raise MedmarkError(f"damaged certificates: {path} has no root or no number of images; get it again")
    return signed
