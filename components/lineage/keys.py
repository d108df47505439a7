"""Key pairs, encrypted at rest with a passphrase: Ed25519 for signing, X25519 for opening locked releases."""

from __future__ import annotations

import getpass
import hashlib
import os
import sys
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from medmark.components.base.errors import MedmarkError
from medmark.components.lineage.files import read_small, refuse_existing, write_new

PASSPHRASE = "MEDMARK_KEY_PASSPHRASE"  # environment variable
KEY = "MEDMARK_SIGNING_KEY"  # environment variable with the key's text, where a key cannot be a file
MIN_PASSPHRASE = 12  # characters, ours
MAX_PASSPHRASE = 1000  # bytes; OpenSSL takes 1023


def new_key(directory: str | Path, passphrase: str, *, locking: bool = False) -> str:
    """Makes a key pair.

    Args:
        directory: folder that gets ``medmark.key`` (private: encrypted PKCS8 PEM that only its owner can read) and
            ``medmark.pub`` (SubjectPublicKeyInfo PEM, to publish); made if missing.
        passphrase: 12 characters or more.
        locking: make a key that opens locked releases instead, ``locking.key`` and ``locking.pub``.

    Returns:
        The key id: hex SHA-256 of the DER public key.

    Raises:
        MedmarkError: the passphrase is too short, or one of the files exists or cannot be written.
    """
    secret, folder = _checked(passphrase), Path(directory)
    name = "locking" if locking else "medmark"
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    for path in (private, public):
        if os.path.lexists(path):
            raise refuse_existing(path)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise MedmarkError(f"cannot make the folder {folder} ({error.strerror}); choose another") from error
    key = X25519PrivateKey.generate() if locking else Ed25519PrivateKey.generate()
    write_new(private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(secret)), 0o600)
    write_new(public, _pem(key.public_key()), 0o644)
    return key_id(key.public_key())


def load_private(path: str | Path, passphrase: str) -> Ed25519PrivateKey:
    """Reads ``medmark.key``.

    Raises:
        MedmarkError: no such file, wrong passphrase, not encrypted, or not an Ed25519 key.
    """
    return _private(
        read_small(path, "private key", "give the medmark.key that 'medmark keys new' wrote"), path, passphrase
    )


def load_locking_private(path: str | Path, passphrase: str) -> X25519PrivateKey:
    """Reads ``locking.key``.

    Raises:
        MedmarkError: as :func:`load_private`.
    """
    key = _opened(
        read_small(path, "private key", "give the locking.key that 'medmark keys new --locking' wrote"),
        path,
        passphrase,
    )
    if not isinstance(key, X25519PrivateKey):
        raise MedmarkError(f"private key is not for locking: {path}; make one with 'medmark keys new --locking'")
    return key


def private_from_environment() -> Ed25519PrivateKey:
    """Reads the key from the environment variable ``MEDMARK_SIGNING_KEY``, where a cluster's secret puts its text.

    Raises:
        MedmarkError: there is no key or no passphrase, or as :func:`load_private`.
    """
    data = os.environ.get(KEY)
    if not data:
        raise MedmarkError(f"no key to sign with; set {KEY} to the text of medmark.key, or sign nothing")
    return _private(data.encode(errors="replace"), KEY, ask_passphrase())


def _private(data: bytes, where: str | Path, passphrase: str) -> Ed25519PrivateKey:
    key = _opened(data, where, passphrase)
    if not isinstance(key, Ed25519PrivateKey):
        raise MedmarkError(f"private key is not Ed25519: {where}; make one with 'medmark keys new'")
    return key


def _opened(data: bytes, where: str | Path, passphrase: str) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(data, _checked(passphrase))
    except TypeError as error:
        raise MedmarkError(
            f"private key is not encrypted: {where}; make a new one with 'medmark keys new', for this one may be known"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MedmarkError(
            f"private key does not open: {where}; the passphrase is wrong, or the file is damaged: take a backup"
        ) from error


def load_public(path: str | Path) -> Ed25519PublicKey:
    """Reads ``medmark.pub``; refuses a file in which any byte changed, even if the key would be the same.

    Raises:
        MedmarkError: no such file, damaged, or not an Ed25519 key.
    """
    data = read_small(path, "public key", "give the signer's medmark.pub")
    key = _public(data, path, "get the signer's medmark.pub again")
    if not isinstance(key, Ed25519PublicKey):
        raise MedmarkError(f"public key is not Ed25519: {path}; get the signer's medmark.pub")
    return key


def locking_public(data: bytes, where: str | Path) -> X25519PublicKey:
    """Reads the text of ``locking.pub``; refuses it if any byte changed, as :func:`load_public` does.

    Args:
        data: content of the file.
        where: it is from, for messages.

    Raises:
        MedmarkError: damaged, or not an X25519 key.
    """
    key = _public(data, where, "get the recipient's locking.pub again")
    if not isinstance(key, X25519PublicKey):
        raise MedmarkError(f"public key is not for locking: {where}; make one with 'medmark keys new --locking'")
    return key


def _public(data: bytes, where: str | Path, remedy: str) -> PublicKeyTypes:
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MedmarkError(f"no public key: {where}; {remedy}") from error
    if _pem(key) != data:
        raise MedmarkError(f"public key is changed or damaged: {where}; {remedy}")
    return key


def key_id(key: PublicKeyTypes) -> str:
    """Returns the id of a key: hex SHA-256 of its DER SubjectPublicKeyInfo."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def ask_passphrase(*, twice: bool = False) -> str:
    """Reads the passphrase from the environment variable ``MEDMARK_KEY_PASSPHRASE``, or asks for it without echo.

    Args:
        twice: ask twice, for a new key.

    Raises:
        MedmarkError: there is neither variable nor terminal, the passphrase is too short, or the two differ.
    """
    passphrase = os.environ.get(PASSPHRASE)
    if passphrase is None:
        if not sys.stdin or not sys.stdin.isatty():
            raise MedmarkError(f"no passphrase and no terminal to ask at; set {PASSPHRASE}")
        passphrase = getpass.getpass("passphrase of the key: ")
        if twice and getpass.getpass("again: ") != passphrase:
            raise MedmarkError("the two passphrases differ; start again")
    _checked(passphrase)
    return passphrase


def _checked(passphrase: str) -> bytes:
    """Returns the passphrase as bytes; no message shows it."""
    if len(passphrase) < MIN_PASSPHRASE:
        raise MedmarkError(f"the passphrase is empty or shorter than {MIN_PASSPHRASE} characters; choose a longer one")
    secret = passphrase.encode(errors="replace")
    if len(secret) > MAX_PASSPHRASE or secret.decode() != passphrase:
        raise MedmarkError(f"the passphrase is not UTF-8 or longer than {MAX_PASSPHRASE} bytes; choose another")
    return secret


def _pem(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
