"""The one exception that medmark raises on purpose, and messages that several rooms need."""

from __future__ import annotations

from pathlib import Path


class MedmarkError(Exception):
    """Something the user can put right.

    The message is one line: what is wrong, where, and what to do about it. The command line prints it and exits
    non-zero; a traceback appears only with ``--debug``.
    """


def cannot_write(path: str | Path, error: OSError, remedy: str = "choose another folder") -> MedmarkError:
    """For the caller to raise: what the file system says of a file or folder that cannot be written."""
    return MedmarkError(f"cannot write: {path} ({error.strerror}); {remedy}")
