"""What KFP's backend makes of an artifact's metadata between two steps (backend/src/v2/metadata/converter.go, 2.17.0)."""

from __future__ import annotations

import base64
import re
import zlib


def stored(metadata: dict) -> dict:
    """The metadata as the next step gets it.

    Raises:
        TypeError: a value that the backend refuses, null among them.
    """
    return {name: _stored(value) for name, value in metadata.items()}


def _stored(value):
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return float(value)
    if isinstance(value, list):
        return {"list": value}
    if isinstance(value, dict):
        return {"struct": value}
    raise TypeError(f"unknown or unsupported value type {type(value)}")


def readable(text: str) -> str:
    """A text, such as a log, and behind it what is packed in it: anybody who sees it can unpack it."""
    packed = re.findall(r"(?<![A-Za-z0-9+/])eN[A-Za-z0-9+/]{40,}={0,2}", text)
    return text + "".join(zlib.decompress(base64.b64decode(one)).decode() for one in packed)
