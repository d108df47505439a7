"""The key that follows from a secret, which was fixed first, and a value that nobody controls, which came later.

:mod:`medmark.components.lineage.drawing` says how the two come about, and how others check them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

DRAW = "draw.json"  # in evidence, private: how its key was drawn; evidence without it is self-drawn
SECRET_BYTES = 32
SEED_BYTES = 6  # as many bits as the other seeds of a run have, see secrets.py
KEY_BYTES = 32


@dataclass(frozen=True)
class DerivedKey:
    """What the mark is made from.

    Attributes:
        seed: of the mark, 48 bits.
        mark_key: 256 bits in hex; tells nothing of the seed.
    """

    seed: int
    mark_key: str


@dataclass(frozen=True)
class Draw:
    """A key that was drawn so that others can check it.

    Attributes:
        text: content of ``draw.json``.
        key: what follows from it.
    """

    text: str
    key: DerivedKey

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the text; tells nothing of it, because it holds 256 random bits."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def derived_key(secret: bytes, value: bytes) -> DerivedKey:
    """Derives a key with HKDF-SHA256 (RFC 5869); the SHA-256 of the value is the salt.

    Args:
        secret: 32 random bytes.
        value: any bytes.
    """

    def derived(what: bytes, length: int) -> bytes:
        return HKDF(SHA256(), length, hashlib.sha256(value).digest(), b"medmark drawn %b, version 1" % what).derive(
            secret
        )

    return DerivedKey(int.from_bytes(derived(b"seed", SEED_BYTES), "big"), derived(b"mark_key", KEY_BYTES).hex())
