"""Pseudonyms: the keyed ids of images and patients in a release, and the private file that holds their key."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from pathlib import Path

from medmark.components.base.digests import canonical_json
from medmark.components.base.errors import MedmarkError, cannot_write


def image_id(name: str, key: str) -> str:
    """Makes an image's id of its name in the source: 32 hex digits that nobody can make without the key.

    128 bits of keyed BLAKE2b: among 10 million images two have the same one with a probability of 1.5e-25.
    """
    return _keyed(name, key, b"medmark-image")


def pseudonym(patient: str, key: str) -> str:
    """Makes a patient's name in the release of the patient's id: 32 hex digits that nobody can make without the key."""
    return _keyed(patient, key, b"medmark-patient")


def _keyed(text: str, key: str, person: bytes) -> str:
    data = text.encode(errors="surrogateescape")  # names of files may be no Unicode
    return hashlib.blake2b(data, key=key.encode(), digest_size=16, person=person).hexdigest()


def kept_patient_key(file: str | Path) -> str:
    """Reads the key of the pseudonyms from a private file, and makes the file with a new key if it is missing.

    Raises:
        MedmarkError: the file is damaged, holds no key, or cannot be written.
    """
    file = Path(file)
    try:
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(canonical_json({"key": secrets.token_hex(32)}))
    except FileExistsError:
        pass  # the key of an earlier ingest
    except OSError as error:
        raise cannot_write(file, error, "name another file") from error
    key = read_key(file)
    if not key:
        raise MedmarkError(f"no key of pseudonyms: {file}; name another file")
    return key


def read_key(path: Path) -> str | None:
    """Reads a key file; None if it says that the pseudonyms were made elsewhere.

    Raises:
        MedmarkError: missing or damaged.
    """
    try:
        key = json.loads(path.read_bytes())["key"]
        if key is not None and not isinstance(key, str):
            raise ValueError("no text")
        return key
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise MedmarkError(f"unreadable: {path} ({error}); restore the folder from a backup") from error
