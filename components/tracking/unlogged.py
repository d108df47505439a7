"""What MLflow has not taken yet: a folder ``unlogged/`` that holds each pipeline's runs whole, until they are sent.

``unlogged/<SHA-256 of run.json>/`` has ``run.json`` and, for the parent and for each step, a folder ``000``, ``001`` ... that
becomes the run's artifacts, and maybe ``private/000`` ... with what only an MLflow in the same folder may get. It appears whole
or not at all, readable by its owner only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmark.components.base.digests import file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.base.locks import try_lock

SCHEMA_VERSION = 1
FOLDER = "unlogged"
INDEX = "run.json"
LOCK = "lock"
PRIVATE = "private"
STAGED = "writing-"


@dataclass(frozen=True)
class Kept:
    """The runs of one pipeline on disk.

    Attributes:
        path: their folder.
        runs: parent first; ``name``, ``parameters``, ``metrics``, ``curves``, ``tags``, ``dataset`` and ``models`` of each.
        time: when they were made, milliseconds since 1970.
        given_run: id of the MLflow run that was to be the parent, or None.
    """

    path: Path
    runs: list[dict[str, Any]]
    time: int
    given_run: str | None

    def digest(self, number: int) -> str:
        """What a run is known by in MLflow: 64 hex digits that follow from the content of all runs and its number."""
        return hashlib.sha256(f"{self.path.name} {number}".encode()).hexdigest()

    def artifacts(self, number: int) -> Path:
        """Folder of a run's artifacts; it need not exist."""
        return artifacts(self.path, number)

    def private(self, number: int) -> Path:
        """Folder of those that no server may get, likewise."""
        return artifacts(self.path / PRIVATE, number)


def artifacts(folder: Path, number: int) -> Path:
    """Folder of the artifacts of a run."""
    return folder / f"{number:03d}"


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """A folder for artifacts, which :func:`finish` turns into one that waits; removed if the block ends without that."""
    (folder / FOLDER).mkdir(mode=0o700, parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=STAGED, dir=folder / FOLDER))
    try:
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)  # gone already after finish


def finish(staged: Path, runs: list[dict[str, Any]], time: int, given_run: str | None) -> Kept:
    """Makes what was written complete; see :class:`Kept`."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "time": time,
        "given_run": given_run,
        "runs": runs,
        "files": {str(path.relative_to(staged)): file_sha256(path) for path in _files(staged)},
    }
    index = json.dumps(content, sort_keys=True, default=str).encode()  # a curve may hold NaN, which JSON proper has not
    (staged / INDEX).write_bytes(index)
    path = staged.with_name(hashlib.sha256(index).hexdigest())
    os.replace(staged, path)
    return Kept(path, json.loads(index)["runs"], time, given_run)


def read(path: Path) -> Kept:
    """Checks a folder that waits and reads it.

    Raises:
        MedmarkError: a file is missing, changed or strange.
    """
    try:
        index = (path / INDEX).read_bytes()
        if hashlib.sha256(index).hexdigest() != path.name:
            raise ValueError(f"{INDEX} is not what its folder's name says")
        content = json.loads(index)
        if content["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"this medmark reads version {SCHEMA_VERSION}")
        found = {str(file.relative_to(path)): file_sha256(file) for file in _files(path)}
        differing = sorted(set(found.items()) ^ set(content["files"].items()))
        if differing:
            raise ValueError(f"{differing[0][0]} is missing, new or changed")
        return Kept(path, content["runs"], content["time"], content["given_run"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MedmarkError(
            f"damaged: {path} ({error}); restore it, or remove it and lose this run in MLflow"
        ) from error


def waiting(folders: list[Path]) -> list[Path]:
    """What waits in some folders or below them, oldest first."""
    found = {
        index.parent.resolve()
        for folder in folders
        for index in Path(folder).rglob(INDEX)
        if index.parent.parent.name == FOLDER and not index.parent.name.startswith(STAGED)
    }
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path))


@contextlib.contextmanager
def held(path: Path) -> Iterator[bool]:
    """Keeps other processes from sending the same; says whether there still is something to send.

    Raises:
        MedmarkError: another process is sending it.
    """
    try:
        lock = try_lock(path / LOCK)
    except FileNotFoundError:
        yield False
        return
    if lock is None:
        raise MedmarkError(f"another process is sending {path}; wait for it, then try again")
    with lock:
        yield (path / INDEX).is_file()


def remove(path: Path) -> None:
    """Removes what was sent, the index first: what is left of an interrupted removal waits for nothing."""
    (path / INDEX).unlink()
    shutil.rmtree(path)
    for rest in path.parent.iterdir():
        if not rest.name.startswith(STAGED) and rest.is_dir() and not (rest / INDEX).is_file():
            shutil.rmtree(rest, ignore_errors=True)  # of an interrupted removal
    with contextlib.suppress(OSError):  # others wait there
        path.parent.rmdir()


def _files(folder: Path) -> list[Path]:
    """Everything in a run's folder but index and lock, sorted."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path.name} is no regular file")
        if path.is_file() and path not in (folder / INDEX, folder / LOCK):
            found.append(path)
    return found
