"""Sealing what a logo hides, and opening it again: AES-256-GCM with a key for each image, and grants of the release's key.

Each release has a key of its own, from which the key of each image follows (HKDF-SHA256). A grant is the release's key, encrypted for one
recipient's public key (HPKE, RFC 9180: X25519, HKDF-SHA256, AES-256-GCM). The owner is a recipient like others, so the evidence holds no
key that opens anything. All of it is done by the library cryptography.
"""

from __future__ import annotations

import base64
import json
import secrets
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from medmark.components.base.digests import HEX, canonical_json
from medmark.components.base.errors import MedmarkError
from medmark.components.lineage.files import decode_exact, parse_exact
from medmark.components.lineage.keys import key_id

GRANT_SCHEMA_VERSION = 1
KEY_BYTES = 32
NONCE_BYTES = 12
SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
LOCK, GRANT = b"medmark lock, version 1", b"medmark grant, version 1"


def release_key(mark_key: str, clean_digest: str) -> bytes:
    """Returns the key of a release's locks, 32 bytes: another one for each release, even if the secret is the same.

    Args:
        mark_key: secret, 64 hex digits; whoever has it can open the release.
        clean_digest: of the release before it was locked.
    """
    return HKDFExpand(SHA256(), KEY_BYTES, LOCK + b":" + clean_digest.encode()).derive(bytes.fromhex(mark_key))


def seal(key: bytes, image_id: str, content: bytes, bound: bytes) -> bytes:
    """Encrypts what belongs to one image.

    Args:
        key: of the release.
        image_id: the image.
        content: any bytes.
        bound: bytes that must be the same when it is opened; they are not in the result.

    Returns:
        A random nonce of 12 bytes, the ciphertext and its tag.
    """
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + AESGCM(_image_key(key, image_id)).encrypt(nonce, content, bound)


def unseal(key: bytes, image_id: str, sealed: bytes, bound: bytes) -> bytes | None:
    """Decrypts it; None if key, image, bytes or what is bound to them are not those of :func:`seal`."""
    try:
        return AESGCM(_image_key(key, image_id)).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], bound)
    except (InvalidTag, ValueError):
        return None


def _image_key(key: bytes, image_id: str) -> bytes:
    return HKDFExpand(SHA256(), KEY_BYTES, LOCK + b"\0" + image_id.encode()).derive(key)


@dataclass(frozen=True)
class Grant:
    """A release's key, encrypted for one recipient.

    Attributes:
        release_digest: of the locked release.
        recipient: id of the recipient's key, see :func:`medmark.components.lineage.keys.key_id`.
        encrypted: the key, encrypted with HPKE.
    """

    release_digest: str
    recipient: str
    encrypted: bytes

    def to_json(self) -> dict:
        """As JSON values."""
        return {
            "schema_version": GRANT_SCHEMA_VERSION,
            "release_digest": self.release_digest,
            "recipient": self.recipient,
            "encrypted": base64.b64encode(self.encrypted).decode(),
        }


def grant(key: bytes, release_digest: str, recipient: X25519PublicKey) -> Grant:
    """Encrypts a release's key for a recipient."""
    return Grant(release_digest, key_id(recipient), SUITE.encrypt(key, recipient, info=_info(release_digest)))


def open_grant(given: Grant, private_key: X25519PrivateKey) -> bytes:
    """Decrypts the release's key.

    Raises:
        MedmarkError: the grant is for another key, or was changed.
    """
    own = key_id(private_key.public_key())
    if given.recipient != own:
        raise MedmarkError(
            f"grant for another key: it is for {given.recipient[:16]}..., given is {own[:16]}...; ask the owner for one of yours"
        )
    try:
        key = SUITE.decrypt(given.encrypted, private_key, info=_info(given.release_digest))
    except (InvalidTag, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise MedmarkError("grant was changed or is of another release; ask the owner for it again")
    return key


def read_grant(data: bytes, where: object) -> Grant:
    """Reads a grant.

    Args:
        data: JSON as medmark writes it.
        where: it is from, for messages.

    Raises:
        MedmarkError: it is damaged.
    """
    try:
        return grant_of(parse_exact(data))
    except (ValueError, KeyError, TypeError) as error:
        raise MedmarkError(f"damaged grant: {where} ({type(error).__name__}); ask the owner for it again") from error


def grant_of(content: dict) -> Grant:
    """Turns JSON values into a grant.

    Raises:
        ValueError, KeyError, TypeError: they are not those of :meth:`Grant.to_json`.
    """
    found = Grant(content["release_digest"], content["recipient"], decode_exact(content["encrypted"]))
    if found.to_json() != content or not HEX.fullmatch(found.release_digest) or not HEX.fullmatch(found.recipient):
        raise ValueError("other fields")
    return found


def write_grant(given: Grant) -> bytes:
    """Returns the bytes of a grant's file."""
    return canonical_json(given.to_json())


def _info(release_digest: str) -> bytes:
    return GRANT + b":" + release_digest.encode()


def pack(sha256: str, parts: dict[str, bytes | None]) -> bytes:
    """Puts what is to be sealed into bytes: the digest of the image as it was, and parts by name."""
    coded = {name: None if part is None else base64.b64encode(part).decode() for name, part in parts.items()}
    return canonical_json({"sha256": sha256, **coded})


def unpack(content: bytes, names: tuple[str, ...]) -> tuple[str, dict[str, bytes | None]]:
    """Takes apart what :func:`pack` put together. It was authenticated before, so only a bug of ours can make it fail."""
    held = json.loads(content)
    return held["sha256"], {n: None if held[n] is None else base64.b64decode(held[n]) for n in names}
