"""Digests: how files and JSON become SHA-256, and whether files still have the digests that were stated."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

HEX = re.compile(r"[0-9a-f]{64}")  # 32 bytes: SHA-256, HMAC-SHA256 or a random salt


def canonical_json(value: object) -> bytes:
    """UTF-8 JSON with sorted keys, two spaces of indent and a final newline: equal values give equal bytes."""
    return (json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def file_sha256(path: str | Path) -> str:
    """Hex SHA-256 of a file, streamed."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_sha256(folder: Path, *, without: str) -> dict[str, str]:
    """Hex SHA-256 of every file in a folder and below it, by its path there.

    Args:
        folder: to read.
        without: name of the file that will list the others; left out.
    """
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != without)
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}


def first_changed(folder: str | Path, stated: Mapping[str, str]) -> Path | None:
    """The first file that is missing, is stored outside the folder, or has another digest than the stated one.

    Args:
        folder: that should hold the files.
        stated: path in the folder to hex SHA-256; may come from outside.

    Returns:
        The file; None if all are as stated.
    """
    inside = Path(folder).resolve()
    for name, sha256 in stated.items():
        file = Path(folder) / name
        if not file.resolve().is_relative_to(inside) or not file.is_file() or file_sha256(file) != sha256:
            return file
    return None
