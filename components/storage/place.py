"""Places in an object store, ``s3://bucket/prefix``, and the names of objects that are taken."""

from __future__ import annotations

import re
from dataclasses import dataclass

from medmark.components.base.errors import MedmarkError

MAX_NAME_BYTES = 1024  # S3's limit
MAX_PART_NAME_BYTES = 200  # of one folder or file; file systems allow 255, a partial file's name is longer
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


@dataclass(frozen=True)
class Place:
    """A prefix in a bucket.

    Attributes:
        bucket: its name.
        prefix: without slashes at its ends; empty for the whole bucket.
    """

    bucket: str
    prefix: str = ""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def __truediv__(self, name: str) -> Place:
        return Place(self.bucket, f"{self.prefix}/{name}" if self.prefix else name)


def parse(uri: str | Place) -> Place:
    """``s3://bucket/prefix`` as a place.

    Raises:
        MedmarkError: it is none, or the prefix has parts like ``..``.
    """
    if isinstance(uri, Place):
        return uri
    scheme, _, rest = uri.partition("://")
    bucket, _, prefix = rest.partition("/")
    prefix = prefix.strip("/")
    if scheme != "s3" or not BUCKET.fullmatch(bucket) or ".." in bucket:
        raise MedmarkError(f"not a place in an object store: {uri!r}; write s3://bucket/prefix")
    if prefix:
        check_name(prefix, uri)
    return Place(bucket, prefix)


def check_name(name: str, where: object) -> None:
    """Refuses the name of an object that is no plain relative path of a file.

    Raises:
        MedmarkError: the name is absolute, has empty parts, ``.``, ``..``, a backslash or control characters, or is longer
            than 1024 bytes or 200 a part.
    """
    parts = name.split("/")
    plain = name.isprintable() and "\\" not in name and not any(part in ("", ".", "..") for part in parts)
    encoded = [part.encode(errors="surrogatepass") for part in parts]
    short = len(name.encode(errors="surrogatepass")) <= MAX_NAME_BYTES and max(map(len, encoded)) <= MAX_PART_NAME_BYTES
    if not plain or not short:
        raise MedmarkError(f"refused object name: {name[:80]!r} in {where}; rename it to a plain relative path")
