"""Keep the answers that a suspect has given, so that no question is paid for twice."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.base.text import one_line
from medmark.components.suspects.segmenters import SegmenterSuspect
from medmark.components.suspects.suspects import SuspectModel

Model = TypeVar("Model", bound=SuspectModel | SegmenterSuspect)
SCHEMA_VERSION = 1
LOCK_TIMEOUT = 10.0  # seconds to wait for another process that writes; arbitrary


def new_store(path: str | Path) -> None:
    """Makes a file for answers if there is none, readable by its owner only.

    Raises:
        MedmarkError: the file is damaged, something else, or locked.
    """
    _opened(Path(path)).close()


def gather_answers(parts: Iterable[str | Path], path: str | Path) -> None:
    """Puts the answers of several files into one, as if all suspects had been asked with that one.

    Args:
        parts: files of :class:`StoredSuspect`.
        path: file to write to; answers that it has stay.

    Raises:
        MedmarkError: a file is damaged, something else, or locked.
    """
    with closing(_opened(Path(path))) as into:
        for part in map(Path, parts):
            with closing(_opened(part)) as known, _explained(part):
                rows = known.execute("SELECT suspect, image, row FROM answers").fetchall()
            with _explained(Path(path)), into:
                into.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", rows)


class StoredSuspect(Generic[Model]):
    """A suspect that is asked only about images it has not answered yet.

    Answers are kept in one SQLite file, under the suspect's identity and the SHA-256 of an image's exact tensor. Each batch
    is on disk before the next is asked: if the server or this process goes away half way, one batch is lost at most.

    Args:
        suspect: to be asked.
        path: of the file; made if missing, readable by its owner only. Several suspects may share it.
        shaped: gives an answer its shape back, which is kept as a row of numbers; None: it is one.

    Attributes:
        suspect: the suspect itself.
        name, size, identity: the suspect's.
        asked: images that the suspect was asked about and answered.
        reused: images whose answer was known.

    Raises:
        MedmarkError: the file is damaged, something else, or locked.
    """

    def __init__(self, suspect: Model, path: str | Path, shaped: Callable[[np.ndarray], np.ndarray] | None = None):
        self.name, self.size, self.identity = suspect.name, suspect.size, suspect.identity
        self.asked = self.reused = 0
        self.suspect, self._path, self._shaped = suspect, Path(path), shaped or np.asarray
        self._file = _opened(self._path)

    def __enter__(self) -> StoredSuspect[Model]:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __call__(self, images: torch.Tensor) -> np.ndarray:
        """Asks about images, as the suspect itself takes and answers them.

        Raises:
            MedmarkError: what the suspect raises, or the file fails. Answers given before are kept.
        """
        keys = [hashlib.sha256(image.cpu().contiguous().numpy().tobytes()).digest() for image in images]
        with _explained(self._path):
            rows = {key: row for key in set(keys) if (row := self._read(key)) is not None}
        new = {key: i for i, key in enumerate(keys) if key not in rows}  # an image that occurs twice is asked once
        self.reused += len(keys) - len(new)
        missing = list(new.items())
        for start in range(0, len(missing), self.suspect.batch_size):
            batch = missing[start : start + self.suspect.batch_size]
            answers = self.suspect(images[[i for _, i in batch]])
            answered = {key: row for (key, _), row in zip(batch, answers, strict=True)}
            with _explained(self._path), self._file:
                self._file.executemany(
                    "INSERT OR REPLACE INTO answers VALUES (?, ?, ?)",
                    [(self.identity, key, row.astype("<f8").tobytes()) for key, row in answered.items()],
                )
            rows |= answered
            self.asked += len(batch)
        with _explained(self._path):
            return np.stack([rows[key] for key in keys])

    def _read(self, key: bytes) -> np.ndarray | None:
        found = self._file.execute(
            "SELECT row FROM answers WHERE suspect = ? AND image = ?", (self.identity, key)
        ).fetchone()
        return None if found is None else self._shaped(np.frombuffer(found[0], dtype="<f8").astype(np.float64))


def _opened(path: Path) -> sqlite3.Connection:
    """Opens a file of answers, a new one if there is none, and checks it."""
    with _explained(path):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        # durable at each commit, in the default rollback journal: a killed process leaves whole batches
        file = sqlite3.connect(path, timeout=LOCK_TIMEOUT)
    try:
        with _explained(path):
            _check(file)
    except MedmarkError:
        file.close()
        raise
    return file


def _check(file: sqlite3.Connection) -> None:
    """Makes the table in a new file, checks an old one."""
    file.execute("BEGIN IMMEDIATE")  # a process killed or racing here must not leave half a store
    version = file.execute("PRAGMA user_version").fetchone()[0]
    tables = {name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if version == 0 and not tables:
        file.execute(
            "CREATE TABLE answers (suspect TEXT, image BLOB, row BLOB, PRIMARY KEY (suspect, image)) WITHOUT ROWID"
        )
        file.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    elif version != SCHEMA_VERSION or tables != {"answers"}:
        raise ValueError("no answer store of this version")
    file.commit()
    if (state := file.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        raise ValueError(one_line(state))


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Says in one line what SQLite and the file raise."""
    try:
        yield
    except sqlite3.OperationalError as error:  # locked, read-only, disk full: the answers themselves are whole
        raise MedmarkError(
            f"answer store cannot be used: {path} ({error}); end other runs that use it, check space and rights"
        ) from error
    except OSError as error:
        raise MedmarkError(f"answer store cannot be opened: {path} ({error.strerror}); give another") from error
    except (sqlite3.DatabaseError, ValueError, TypeError) as error:
        raise MedmarkError(
            f"answer store is damaged: {path} ({error}); restore it from a backup, or move it away to ask again"
        ) from error
