"""The owner's signing key: Ed25519, encrypted at rest with a passphrase."""

from __future__ import annotations

import getpass
import hashlib
import os
import sys
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
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


def new_key(directory: str | Path, passphrase: str) -> str:
    """Makes a key pair.

    Args:
        directory: folder that gets ``medmark.key`` (private: encrypted PKCS8 PEM that only its owner can read) and
            ``medmark.pub`` (SubjectPublicKeyInfo PEM, to publish); made if missing.
        passphrase: 12 characters or more.

    Returns:
        The key id: hex SHA-256 of the DER public key.

    Raises:
        MedmarkError: the passphrase is too short, or one of the files exists or cannot be written.
    """
    secret, folder = _checked(passphrase), Path(directory)
    private, public = folder / "medmark.key", folder / "medmark.pub"
    for path in (private, public):
        if os.path.lexists(path):
            raise refuse_existing(path)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise MedmarkError(f"cannot make the folder {folder} ({error.strerror}); choose another") from error
    key = Ed25519PrivateKey.generate()
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
    try:
        key = load_pem_private_key(data, _checked(passphrase))
    except TypeError as error:
        raise MedmarkError(
            f"private key is not encrypted: {where}; make a new one with 'medmark keys new', for this one may be known"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MedmarkError(
            f"private key does not open: {where}; the passphrase is wrong, or the file is damaged: take a backup"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise MedmarkError(f"private key is not Ed25519: {where}; make one with 'medmark keys new'")
    return key


def load_public(path: str | Path) -> Ed25519PublicKey:
    """Reads ``medmark.pub``; refuses a file in which any byte changed, even if the key would be the same.

    Raises:
        MedmarkError: no such file, damaged, or not an Ed25519 key.
    """
    data = read_small(path, "public key", "give the signer's medmark.pub")
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MedmarkError(f"no public key: {path}; get the signer's medmark.pub again") from error
    if not isinstance(key, Ed25519PublicKey):
        raise MedmarkError(f"public key is not Ed25519: {path}; get the signer's medmark.pub")
    if _pem(key) != data:
        raise MedmarkError(f"public key is changed or damaged: {path}; get the signer's medmark.pub again")
    return key


def key_id(key: Ed25519PublicKey) -> str:
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


def _pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
