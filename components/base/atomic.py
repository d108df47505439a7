"""Files that are written whole or not at all: a process that is killed leaves the old content or the new, never a part."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def atomic_file(path: str | Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """A stream whose content replaces a file when the block ends; if the block raises, the file stays as it was.

    Args:
        path: of the file, in a folder that exists.
        private: whether only the owner may read the file; else the umask decides.
    """
    partial = Path(path).with_name(f"{Path(path).name}.partial")
    partial.unlink(missing_ok=True)  # left by a process that was killed, or a link that somebody put there
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666), "wb") as stream:
            yield stream
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_atomic(path: str | Path, content: bytes, *, private: bool = False) -> None:
    """Writes a file whole or not at all; one that is there is replaced. Arguments as of :func:`atomic_file`."""
    with atomic_file(path, private=private) as stream:
        stream.write(content)
