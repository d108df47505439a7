"""Files and folders that only their owner may read, and that one command writes at a time.

A user with write access beside a folder can put a link or a folder of their own where a command is about to make one. So what
is there already counts only if it is the user's own, nobody else may write to it, and no link leads out of it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from medmark.components.base.atomic import write_atomic
from medmark.components.base.errors import MedmarkError, cannot_write
from medmark.components.base.locks import locked

LOCK = ".medmark.lock"
MASK = 0o077
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@contextlib.contextmanager
def private_files() -> Iterator[None]:
    """Makes all files that this process, and those that it starts, create in the block readable by their owner only."""
    before = os.umask(MASK)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def output(path: str | Path, refuse: Callable[[Path], None]) -> Iterator[Path]:
    """A private folder for what one command makes; nothing else in the block is readable by others either.

    Args:
        path: of the folder; made if missing, and removed at the end if it is empty then.
        refuse: raises if it holds what the command may neither write over nor go on with; :data:`LOCK` may be there.

    Yields:
        The folder, with its absolute path.

    Raises:
        MedmarkError: what ``refuse`` and :func:`private_folder` raise, others might have written there, or another command
            writes there at this moment.
    """
    path = Path(path)
    check_no_link(path)
    if path.exists() and not path.is_dir():
        raise MedmarkError(f"a file: {path}; choose a folder")
    missing = not path.exists()
    if not missing:
        refuse(path)
        if set(os.listdir(path)) - {LOCK}:
            check_own(path, "check its content, then remove it or choose another")
    with private_files():
        folder = private_folder(path).resolve()
        try:
            with locked(folder / LOCK, busy(path)):
                refuse(folder)
                yield folder
        finally:
            if missing:
                with contextlib.suppress(OSError):  # not empty
                    folder.rmdir()


def private_folder(path: str | Path) -> Path:
    """Makes a folder that only its owner may use, or makes it so.

    Raises:
        MedmarkError: it is a link or a file, or somebody else's, anybody may replace it, or it cannot be made.
    """
    path = Path(path)
    check_no_link(path)
    try:
        above = path.absolute().parent
        with private_files():
            above.mkdir(parents=True, exist_ok=True)
        mode = above.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise MedmarkError(
                f"anybody may replace what is in {above}; write into a folder of your own there, or chmod o-w {above}"
            )
        path.mkdir(mode=0o700, exist_ok=True)
        if path.lstat().st_uid != os.geteuid():
            raise MedmarkError(f"belongs to somebody else: {path}; choose a folder of your own")
        os.chmod(path, 0o700)
    except FileExistsError as error:
        raise MedmarkError(f"a file: {path}; choose a folder") from error
    except OSError as error:
        raise cannot_write(path, error) from error
    return path


def check_no_link(path: Path) -> None:
    """Refuses a symbolic link.

    Raises:
        MedmarkError: it is one.
    """
    if path.is_symlink():
        raise MedmarkError(f"a link: {path}; give the folder itself")


def check_own(folder: Path, remedy: str, *, links: bool = True) -> None:
    """Refuses a folder that somebody else may have put or changed there.

    Args:
        folder: to go on with.
        remedy: what to do if it is refused.
        links: whether files may be hard links, as those are that steps pass on.

    Raises:
        MedmarkError: it is no folder, others may write to it, or something in it is a symbolic link, of somebody else, or
            neither file nor folder.
    """
    found = [folder]
    for path in found:
        problem: str | None = None
        status = path.lstat()
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFLNK:
            problem = "a link"
        elif status.st_uid != os.geteuid():
            problem = "belongs to somebody else"
        elif kind == stat.S_IFDIR:
            problem = "others may write there" if path == folder and status.st_mode & OTHERS_WRITE else None
            found += path.iterdir() if not problem else []
        elif path == folder:
            problem = "a file"
        elif kind != stat.S_IFREG:
            problem = "neither file nor folder"
        else:
            problem = "a file with another name elsewhere" if status.st_nlink > 1 and not links else None
        if problem:
            raise MedmarkError(f"{problem}: {path}; {remedy}")


def close_to_others(folder: str | Path) -> None:
    """Makes a folder and all in it readable by their owner only. Links are left alone."""
    _set_modes(Path(folder), 0o700, 0o600)


def open_to_others(path: str | Path) -> None:
    """Makes a file, or a folder and all in it, readable by everybody. Links are left alone."""
    _set_modes(Path(path), 0o755, 0o644)


def write_private(path: str | Path, content: bytes) -> None:
    """Writes a file that only its owner may read, whole or not at all; one that is there is replaced."""
    write_atomic(path, content, private=True)


def busy(path: Path) -> str:
    """The message while another command holds the lock of a folder."""
    return f"another command writes to {path} at this moment; wait for it, or choose another folder"


def _set_modes(path: Path, folder: int, file: int) -> None:
    for each in [path, *path.rglob("*")]:
        if not each.is_symlink():
            os.chmod(each, folder if each.is_dir() else file)
