"""Small signed and secret files: read within limits, accepted only as medmark writes them, and never overwritten."""

from __future__ import annotations

import base64
import json
import os
import tempfile
from pathlib import Path

from medmark.components.base.digests import canonical_json
from medmark.components.base.errors import MedmarkError, cannot_write

MAX_BYTES = 1 << 20  # arbitrary; the largest of these files, evidence.json, has some kB


def read_small(path: str | Path, what: str, remedy: str) -> bytes:
    """Bytes of a regular file of at most 1 MiB.

    Args:
        path: of the file.
        what: the file is, for messages.
        remedy: what to do if it cannot be read.

    Raises:
        MedmarkError: missing, unreadable, no regular file, or too large.
    """
    try:
        if not Path(path).is_file():  # a pipe or a device would never end
            raise OSError("no such file")
        with open(path, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MedmarkError(f"{what} cannot be read: {path} ({reason}); {remedy}") from error
    if len(data) > MAX_BYTES:
        raise MedmarkError(f"{what} is larger than {MAX_BYTES} bytes: {path}; {remedy}")
    return data


def parse_object(data: bytes) -> dict:
    """A JSON object in UTF-8.

    Raises:
        ValueError: something else, a key that occurs twice, nesting beyond Python's limit, NaN or Infinity. The text says
            where, and repeats nothing of the content.
    """
    try:
        value = json.loads(data.decode(), object_pairs_hook=_pairs, parse_constant=_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    return value


def parse_exact(data: bytes) -> dict:
    """As :func:`parse_object`, but also no byte may differ from what ``canonical_json`` writes.

    Raises:
        ValueError: it differs.
    """
    value = parse_object(data)
    try:
        same = canonical_json(value) == data
    except (ValueError, RecursionError):
        same = False
    if not same:
        raise ValueError("not written as medmark writes it")
    return value


def decode_exact(text: str) -> bytes:
    """Bytes of a base64 text; each has one text only.

    Raises:
        ValueError: the text is another spelling, or no base64.
    """
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("base64 with stray bits")
    return data


def write_new(path: str | Path, data: bytes, mode: int) -> None:
    """Writes a file whole or not at all, on disk when this returns.

    Args:
        path: must not exist.
        data: its content.
        mode: of the file, as ``0o600``.

    Raises:
        MedmarkError: it exists, or cannot be written.
    """
    path = Path(path)
    try:
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=".medmark-")
        try:
            with os.fdopen(handle, "wb") as stream:
                os.fchmod(stream.fileno(), mode)
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.link(partial, path)  # unlike a rename this refuses to replace a file
        finally:
            os.unlink(partial)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except FileExistsError as error:
        raise refuse_existing(path) from error
    except OSError as error:
        raise cannot_write(path, error, "choose another place") from error


def refuse_existing(path: Path) -> MedmarkError:
    """For the caller to raise."""
    return MedmarkError(f"already there: {path}; medmark writes over no key and no commitment, choose another place")


def _pairs(pairs: list[tuple[str, object]]) -> dict:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key occurs twice")
    return dict(pairs)


def _constant(name: str) -> None:
    raise ValueError("NaN or Infinity")
