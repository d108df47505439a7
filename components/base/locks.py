"""File locks: one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from medmark.components.base.errors import MedmarkError, cannot_write


@contextlib.contextmanager
def locked(file: Path, taken: str, *, wait: float = 0.0, keep: bool = False) -> Iterator[None]:
    """Keeps other processes out while the block lasts.

    Args:
        file: see :func:`try_lock`.
        taken: message if another process has the lock.
        wait: seconds.
        keep: whether to leave the file.

    Raises:
        MedmarkError: another process has the lock, or there can be no such file.
    """
    deadline = time.monotonic() + wait
    try:
        while (lock := try_lock(file)) is None:
            if time.monotonic() > deadline:
                raise MedmarkError(taken)
            time.sleep(0.05)
    except OSError as error:
        raise cannot_write(file, error) from error
    with lock:
        try:
            yield
        finally:
            if not keep:
                file.unlink(missing_ok=True)  # the block may have removed its folder


def try_lock(file: Path) -> TextIO | None:
    """Locks a file, which is made if missing. The holder of the lock may remove the file.

    Returns:
        The open file, whose closing ends the lock; None if another process has it.

    Raises:
        OSError: there can be no such file, or it is a link.
    """
    while True:
        lock = open(os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock.fileno()).st_ino == file.stat().st_ino:
                return lock
        except BlockingIOError:
            lock.close()
            return None
        except FileNotFoundError:  # removed by the one before
            pass
        lock.close()
