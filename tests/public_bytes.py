"""What whoever sees public files can search them for: names of patients and files, and hashes of them without a key."""

import hashlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import pyarrow.parquet as pq

ALGORITHMS = ("sha256", "sha1", "md5", "sha512", "blake2b", "blake2s")
PREFIX = 10  # hex digits of a hash that count as found: 8 would be found by chance in so many bytes


def hashes(text: str) -> set[str]:
    """Hex digests of a text, unkeyed, of the usual algorithms and lengths."""
    data = text.encode()
    found = {hashlib.new(name, data).hexdigest() for name in ALGORITHMS}
    return found | {hashlib.blake2b(data, digest_size=size).hexdigest() for size in (4, 8, 16, 20, 32)}


def clues(names: Iterable[str]) -> set[str]:
    """All that a source's name gives away: its path, folder, file, stem."""
    found = set()
    for name in names:
        path = PurePosixPath(name)
        found |= {name, path.name, path.stem, path.parent.name, *path.parent.parts}
    return {clue for clue in found if len(clue) > 3}


def public_bytes(*places: Path) -> bytes:
    """Bytes of all files and their names; columns of Parquet files, which are compressed, also as text."""
    parts = []
    for place in places:
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.is_file():
                parts += [str(path.relative_to(place.parent)).encode(), path.read_bytes()]
                if path.suffix == ".parquet":
                    for column in pq.read_table(path).columns:
                        parts += [
                            cell if isinstance(cell, bytes) else str(cell).encode() for cell in column.to_pylist()
                        ]
    return b"\n".join(parts)


def leaks(public: bytes, secrets: Iterable[str]) -> list[str]:
    """Which of the texts, or of their unkeyed hashes, stand in public bytes; upper and lower case are the same."""
    public = public.lower()
    found = []
    for text in sorted(set(secrets)):
        if text.lower().encode() in public:
            found.append(text)
        found += [f"{text}: {digest}" for digest in hashes(text) if digest[:PREFIX].encode() in public]
    return found
