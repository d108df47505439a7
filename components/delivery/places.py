"""Lets commands take places in an object store where they take local paths.

::

    with Places() as places:
        source, out = places.read(source, raw=True), places.write(out)
        ...

A path of this machine is given back as it is. ``${XDG_CACHE_HOME:-~/.cache}/medmark``, which only its owner can read, holds what was
fetched or waits to be sent. That is removed when the block ends, unless a transfer was interrupted: then the same command goes on
from there. A command that was killed loses nothing, and no other command uses what it left.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TextIO

from medmark.components.base.atomic import write_atomic
from medmark.components.base.digests import HEX, file_sha256
from medmark.components.base.errors import MedmarkError, cannot_write
from medmark.components.base.locks import try_lock
from medmark.components.base.private_files import private_files, private_folder
from medmark.components.dataset.release import MAX_MANIFEST_BYTES
from medmark.components.delivery.publish import KINDS, Kind, fetch, kind_of, send
from medmark.components.storage.place import Place, check_name, parse
from medmark.components.storage.retry import Denied, Interrupted
from medmark.components.storage.store import MAX_OBJECT_BYTES, Store, parallel


def is_place(text: str) -> bool:
    """Tells whether a text means an object store, even if the address is misspelt."""
    return text.lower().startswith("s3:/")


def local(text: str, remedy: str) -> Path:
    """Returns a path of this machine, and refuses anything else.

    Args:
        text: path as the user wrote it.
        remedy: what to do instead of giving a place in an object store, for the message.

    Raises:
        MedmarkError: the text is a place in an object store.
    """
    if is_place(text):
        raise MedmarkError(f"must be on this machine: {text}; {remedy}")
    return Path(text)


def shown(out: str, name: str) -> str:
    """Returns the path or address of a file in an output, which is a folder or a place."""
    return f"{out.rstrip('/')}/{name}" if is_place(out) else str(Path(out).resolve() / name)


class Places:
    """Turns the arguments of one command into local paths; a context manager, used once.

    When the block ends without an exception, what was written is sent. A :class:`MedmarkError` that leaves the block names
    places instead of the paths that stood for them. If an earlier run of the same command had finished and was interrupted
    while it sent its output, that is sent, and the rest of the block is skipped.
    """

    def __init__(self) -> None:
        self._stages: list[_Stage] = []
        self._read: dict[tuple, Path] = {}
        self._outputs: list[_Output] = []

    def __enter__(self) -> Places:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        try:
            if error is None:
                for output in self._outputs:
                    _send(output)
        except MedmarkError as failed:
            error = failed
        finally:
            for stage in self._stages:
                stage.close()
        if isinstance(error, MedmarkError):
            text = str(error)
            for stage in self._stages:
                text = text.replace(str(stage.path), str(stage.place))
            raise MedmarkError(text) from error
        return kind is _Sent

    def read(
        self,
        text: str,
        *,
        raw: bool = False,
        private: bool = False,
        limit: int = MAX_OBJECT_BYTES,
        beside: Callable[[Path], Iterable[str]] | None = None,
    ) -> Path:
        """Returns a path to read from.

        Args:
            text: a path, or ``s3://bucket/prefix`` of a release, evidence or keep. Every digest is checked, also that of the
                manifest if the prefix ends with it.
            raw: whether anything else may be read too: a single file, or all objects under the prefix. Other tools may have put
                them there; if no SHA-256 is stated for an object, only its size and ETag are checked.
            private: use the credentials for evidence, if there are any.
            limit: largest size of a raw object in bytes; for a single file, of that file and those beside it together.
            beside: called with a single file; names files beside it to fetch too, if they are there.

        Raises:
            MedmarkError: nothing of this kind is there, something does not match its digest, a name is hostile, the disk is
                full, or the store fails.
        """
        if not is_place(text):
            return Path(text)
        key = (text, raw, private)
        if key not in self._read:
            place, store = parse(text), _store(private)
            stage = self._stage("read", place, store)
            try:
                with private_files():
                    self._fetch(stage, store, raw, limit, beside)
            except BaseException as error:
                # what can go on later is kept, of everything that this command reads
                if isinstance(error, Interrupted) or not isinstance(error, Exception):
                    for each in self._stages:
                        each.keep = True
                raise
            self._read[key] = stage.path
        return self._read[key]

    def read_source(self, text: str, root: str | None = None) -> tuple[Path, Path | None]:
        """Returns source and root of an ingest: raw images, a CSV file or a release.

        A CSV file in an object store is fetched with everything beside and below it, unless ``root`` says where its images are.

        Raises:
            MedmarkError: as :meth:`read`.
        """
        if is_place(text) and text.lower().endswith(".csv") and root is None:
            above, _, name = text.rpartition("/")
            return self.read(above, raw=True) / name, None
        return self.read(text, raw=True), self.read(root, raw=True) if root is not None else None

    def write(self, text: str, *, file: bool = False, private: bool = False, goes_on: bool = False) -> Path:
        """Returns a path to write to.

        Args:
            text: a path, or ``s3://bucket/prefix`` with nothing under it.
            file: whether a file is to be written, perhaps with others beside it, instead of a folder.
            private: use the credentials for evidence, if there are any.
            goes_on: whether the command goes on with what it left when it failed; that is then kept.

        Raises:
            MedmarkError: there is something at the place, or it is inside a release; another command writes there; or the
                store fails.
        """
        if not is_place(text):
            return Path(text)
        place, store = parse(text), _store(private)
        if file and not place.prefix:
            raise MedmarkError(f"no name of a file: {text}; write s3://bucket/name")
        stage = self._stage("write", place, store)
        stage.keep = True  # what another command line left to be sent is not ours to remove
        output = _Output(stage, store, file)
        there = output.there()
        if output.finished:
            _send(output)
            print(f"medmark: {text} is complete now; an earlier run had made it and could not send it", file=sys.stderr)
            raise _Sent
        _refuse_occupied(place, there, store)
        stage.keep = goes_on
        if not goes_on:
            shutil.rmtree(stage.content, ignore_errors=True)
            output.mark.unlink(missing_ok=True)
        stage.content.mkdir(mode=0o700, exist_ok=True)
        self._outputs.append(output)
        return stage.path

    def _stage(self, use: str, place: Place, store: Store) -> _Stage:
        stage = _Stage.open(use, place, store)
        self._stages.append(stage)
        return stage

    def _fetch(self, stage: _Stage, store: Store, raw: bool, limit: int, beside: Callable | None) -> None:
        """Fetches the objects of the stage's place to its path."""
        place, target = stage.place, stage.path
        listing = store.list(place)
        kind = kind_of(listing)
        if kind:
            _fetch_complete(kind, place, target, store)
            return
        if not raw:
            manifests = ", ".join(kind.manifest for kind in KINDS)
            raise MedmarkError(f"nothing complete there: {place} has none of {manifests}; check the address")
        if listing:
            _download(stage, store, {f"{target.name}/{name}": place / name for name in listing}, listing, limit)
            return
        files, folder = {target.name: place}, Place(place.bucket, place.prefix.rpartition("/")[0])
        if beside is not None:
            main = store.take(place, stage.parts, limit=limit)
            left = limit - main.stat().st_size
            for name in beside(main):
                check_name(name, place)
                if store.sha256(folder / name) is not None:
                    left -= store.take(folder / name, stage.parts, limit=left).stat().st_size
                    files[name] = folder / name
        _download(stage, store, files, {}, limit)


def _fetch_complete(kind: Kind, place: Place, target: Path, store: Store) -> None:
    """Fetches what a manifest names. If the place ends with no digest, the manifest in the store is believed."""
    digest = place.prefix.rpartition("/")[2]
    if not HEX.fullmatch(digest):
        digest = hashlib.sha256(store.read(place / kind.manifest, MAX_MANIFEST_BYTES) or b"").hexdigest()
    before = target / kind.manifest
    if target.exists() and not (before.is_file() and file_sha256(before) == digest):
        shutil.rmtree(target)  # of a command that was killed, and the place has changed since
    fetch(kind, place, target, store, digest)


class _Sent(Exception):
    """Leaves the block: the output is made and sent."""


@dataclass
class _Stage:
    """A folder in the cache for one place, which no other process uses meanwhile.

    Attributes:
        folder: the folder.
        place: the place that it stands for.
        lock: lock that is held as long as the folder is used.
        keep: whether to leave the folder there when the command ends.
    """

    folder: Path
    place: Place
    lock: TextIO
    keep: bool = False

    @property
    def content(self) -> Path:
        """Folder with what the command sees."""
        return self.folder / "content"

    @property
    def parts(self) -> Path:
        """Folder with the objects that have arrived, named by their identity."""
        return self.folder / "parts"

    @property
    def index(self) -> Path:
        """File that says which of them became which file of the content."""
        return self.folder / "index.json"

    @property
    def path(self) -> Path:
        """What the command sees; it has the last name of the place."""
        return self.content / (self.place.prefix.rpartition("/")[2] or self.place.bucket)

    @classmethod
    def open(cls, use: str, place: Place, store: Store) -> _Stage:
        """Opens the same folder for the same place, unless another process reads there at this moment."""
        name = hashlib.sha256(f"{use}\n{store.endpoint}\n{place}".encode()).hexdigest()[:32]
        remedy = "set XDG_CACHE_HOME to a folder of your own"
        try:
            cache = _cache()
        except (MedmarkError, RuntimeError) as error:  # RuntimeError: no home directory
            raise MedmarkError(f"no folder for transfers ({error}); {remedy}") from error
        try:
            for number in itertools.count():
                folder = cache / (f"{name}-{number}" if number else name)
                lock = _lock(folder)
                if lock:
                    return cls(folder, place, lock)
                if use == "write":
                    raise MedmarkError(f"another command writes to {place} at this moment; wait for it")
        except OSError as error:
            raise MedmarkError(f"no folder for transfers ({error}); {remedy}") from error
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Releases the folder, and removes it unless it is to be kept and holds anything."""
        if not self.keep or all(path.is_dir() or path.name == ".lock" for path in self.folder.rglob("*")):
            shutil.rmtree(self.folder, ignore_errors=True)
        self.lock.close()


@dataclass
class _Output:
    """An output that is sent from a stage."""

    stage: _Stage
    store: Store
    file: bool

    @property
    def mark(self) -> Path:
        """File that says which command line finished the output."""
        return self.stage.folder / "finished"

    @property
    def finished(self) -> bool:
        """Whether this very command line finished it."""
        return self.mark.is_file() and self.mark.read_text() == _command()

    @property
    def base(self) -> Path:
        """Folder that the names of the files start from."""
        return self.stage.content if self.file else self.stage.path

    @property
    def place(self) -> Place:
        """The place in the object store that the names start from."""
        place = self.stage.place
        return Place(place.bucket, place.prefix.rpartition("/")[0]) if self.file else place

    def names(self) -> list[str]:
        """Names of the files that were made."""
        return sorted(path.relative_to(self.base).as_posix() for path in self.base.rglob("*") if path.is_file())

    def there(self) -> list[str]:
        """Names of the objects where the output goes."""
        if not self.file:
            return list(self.store.list(self.place))
        names = {self.stage.path.name, *self.names()}
        return [name for name in names if self.store.sha256(self.place / name) is not None]


def _send(output: _Output) -> None:
    """Sends what was made; it stays if that fails."""
    names = output.names()
    if not names:
        return
    output.stage.keep = True
    output.mark.write_text(_command())
    try:
        for name in names:
            check_name(name, output.stage.place)
        files = {name: file_sha256(output.base / name) for name in names}
        last = [kind.manifest for kind in KINDS] + ([output.stage.path.name] if output.file else [])
        send(
            output.base,
            files,
            output.there(),
            output.place,
            output.store,
            last=tuple(name for name in last if name in files),
        )
    except MedmarkError as error:
        raise MedmarkError(
            f"{error} (the output is made and kept: the same command, run again, only sends it)"
        ) from error
    output.stage.keep = False


def _download(stage: _Stage, store: Store, objects: dict[str, Place], sizes: dict[str, int], limit: int) -> None:
    """Fetches objects of any origin; they appear in the stage's content when all of them are there.

    Until then their names are made of their identity. So nothing is fetched twice after an interruption, and an object that has
    disappeared from the store meanwhile does not appear. They are moved, not linked: links are refused where files are read.
    """
    _move_back(stage)
    for name in objects:
        above = name.rpartition("/")[0]
        while above:
            if above in objects:
                raise MedmarkError(
                    f"refused object name: {above[:80]!r} is a file and a folder in {stage.place}; rename one"
                )
            above = above.rpartition("/")[0]
    here = sum(path.stat().st_size for path in stage.parts.rglob("*") if path.is_file())
    needed, free = sum(sizes.values()) - here, shutil.disk_usage(stage.folder).free
    if needed > free:
        raise Interrupted(
            f"disk full: {stage.place} needs {needed} bytes more, {stage.folder.parent} has room for {free}; free space, then run"
            " again to go on, or set XDG_CACHE_HOME to a folder on a larger disk"
        )

    def fetched(name: str) -> tuple[str, Path]:
        return name, store.take(objects[name], stage.parts, limit=limit)

    found = parallel([partial(fetched, name) for name in objects], "fetching")
    try:
        index = {name: str(part.relative_to(stage.parts)) for name, part in found}
        write_atomic(stage.index, json.dumps(index).encode())
        for name, part in found:
            path = stage.content / name
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(part, path)
    except OSError as error:
        raise cannot_write(path, error, "set XDG_CACHE_HOME to another folder") from error


def _move_back(stage: _Stage) -> None:
    """Moves the files that a killed command saw back to those that have arrived."""
    if stage.index.exists():
        for name, part in json.loads(stage.index.read_text()).items():
            if (stage.content / name).is_file():
                os.replace(stage.content / name, stage.parts / part)
        stage.index.unlink()
    shutil.rmtree(stage.content, ignore_errors=True)


def _refuse_occupied(place: Place, there: list[str], store: Store) -> None:
    """Refuses to overwrite anything, and to add anything to a release or evidence."""
    if there:
        raise MedmarkError(f"not empty: {place} has {sorted(there)[0]}; nothing is overwritten, choose another place")
    above = place.prefix.rpartition("/")[0]
    while True:
        try:
            inside = any(store.sha256(Place(place.bucket, above) / kind.manifest) is not None for kind in KINDS)
        except Denied:  # credentials for this prefix alone
            return
        if inside:
            raise MedmarkError(f"inside a release or evidence: {place}; choose a place beside it")
        if not above:
            return
        above = above.rpartition("/")[0]


def _store(private: bool) -> Store:
    return Store.for_evidence() if private else Store.from_environment()


def _command() -> str:
    """Returns the SHA-256 of the command line, by which the same command is recognised."""
    return hashlib.sha256("\0".join(sys.argv).encode(errors="surrogateescape")).hexdigest()


def _cache() -> Path:
    """Returns the private folder for transfers. Raises MedmarkError or RuntimeError if there can be none."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    cache = (given if given.is_absolute() else Path.home() / ".cache") / "medmark"
    return private_folder(cache)


def _lock(folder: Path) -> TextIO | None:
    """Returns the open lock of a folder, which is made if missing; None if another process holds it."""
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # removed by the process that held it
            return try_lock(folder / ".lock")
