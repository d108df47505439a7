"""A suspect in a process of its own, which is ended when it takes too long, too much memory or too much processor time.

What the process says is believed no more than the suspect itself: the file's digest is computed here, and a hostile model
that has taken over its process gets through nothing but arrays, short texts and its own words about its tensors.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from medmark.components.base.errors import MedmarkError
from medmark.components.base.text import one_line
from medmark.components.base.threads import choose_threads
from medmark.components.suspects.http import (
    TOKEN,
    Connection,
    checked_url,
    endpoint_digest,
    read_token,
)
from medmark.components.suspects.messages import MAX_ANSWER, Channel, Unavailable, pack, unpack
from medmark.components.suspects.model_files import digest_of, model_files

COMMAND = [sys.executable, "-P", "-m", "medmark.components.suspects.worker"]
OPENING = 300.0  # seconds to download or to open a model, unless one batch may take longer; arbitrary
GRACE = 10.0  # seconds to start a process and to pack what is sent; arbitrary
MAX_TENSORS = 64  # that a model may declare; arbitrary
MAX_LOCATIONS = 1000  # files with a model's weights; arbitrary
# the environment of a process that computes a model: no keys, no addresses of services
PLAIN = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "PATH", "PYTHONHOME", "PYTHONPATH", "TMPDIR")


class Process:
    """A process that does one task and then answers questions, a context manager.

    Args:
        where: what to call the suspect in messages.
        task: for :mod:`medmark.components.suspects.worker`.
        connection: its limits.
        secrets: whether it needs the environment with its keys.
    """

    def __init__(self, where: str, task: dict, connection: Connection, *, secrets: bool):
        self.where, self._connection = where, connection
        environment = {k: v for k, v in os.environ.items() if k != TOKEN and (secrets or k in PLAIN)}
        ours, theirs = socket.socketpair()
        self._channel = Channel(ours)
        with theirs:
            self._process = subprocess.Popen(
                [*COMMAND, str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # what hostile models make libraries print
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._end = weakref.finalize(self, _end, self._process, self._channel)
        self._task = task | {"memory": int(connection.memory * (1 << 30)), "threads": choose_threads()}

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()

    def end(self) -> None:
        """Kills the process and those that it started."""
        self._end()

    def open(self, seconds: float) -> dict:
        """Hands out the task, once.

        Returns:
            What the process says about it.

        Raises:
            MedmarkError: as :meth:`ask`.
        """
        return self.ask(self._task, b"", seconds)[0]

    def ask(self, question: dict, data: bytes | memoryview, seconds: float) -> tuple[dict, bytearray]:
        """Sends one message and takes one back.

        Raises:
            Unavailable: no answer within the limits; the process is ended.
            MedmarkError: what the process says is wrong.
        """
        started = time.monotonic()
        try:
            stated = question | {"seconds": seconds, "threads": self._task["threads"]}
            self._channel.send(stated, data, seconds=seconds)
            said, answer = self._channel.receive(limit=MAX_ANSWER, seconds=seconds - (time.monotonic() - started))
        except TimeoutError:
            self._fail(f"gives no answer within {seconds:g} s", "give it longer with --timeout if it is only slow")
        except (EOFError, OSError):
            self._explain()
        except ValueError as error:
            self.broken(error)
        if "error" in said:
            raise (Unavailable if said.get("unavailable") is True else MedmarkError)(one_line(said["error"], 1000))
        return said, answer

    def broken(self, error: ValueError) -> NoReturn:
        """Ends the process for what it has sent, which ours does not send."""
        self._fail(f"has broken its process, which sends {one_line(error, 100)}", "do not trust it")

    def _fail(self, wrong: str, remedy: str) -> NoReturn:
        self.end()
        raise Unavailable(f"suspect {self.where} {wrong}; {remedy}")

    def _explain(self) -> NoReturn:
        for _ in range(100):  # for a second: a process that dies closes its files before it has a status
            # left in the process table, so that its number is not that of another when its children are killed
            if os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                break
            time.sleep(0.01)
        self.end()
        status = self._process.returncode
        if status >= 0:
            self._fail(f"has ended its process with status {status}", "try again, or leave it out")
        name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
        reason = {"SIGXCPU": "too much processor time", "SIGKILL": "perhaps for want of memory"}.get(name, "a crash")
        self._fail(f"was ended by {name}, {reason}", "try again, or leave it out")


class IsolatedSuspect:
    """A suspect in a process of its own; a ``Backend`` of :mod:`medmark.components.suspects.suspects`.

    It is opened once to see what it is; its process ends then, and starts anew with the first question, so that of several
    suspects only the one that is asked takes any memory.

    Args:
        target: see :func:`medmark.components.suspects.suspects.open_suspect`.
        connection: limits and patience.
        registry: URI of an MLflow registry; None: what MLflow is configured for.
        file: where an ONNX file lies, if that is not its name.
        convolution: ask a file for what its last convolution gives, instead of for its answers.

    Attributes:
        description: what an endpoint says of itself; None for a file.

    Raises:
        Unavailable: it does not open within the limits.
        MedmarkError: it cannot be opened.
    """

    def __init__(
        self,
        target: str,
        connection: Connection,
        *,
        registry: str | None = None,
        file: str | Path | None = None,
        convolution: bool = False,
    ):
        self.where, self._connection = target, connection
        self._process: Process | None = None
        self._folder: tempfile.TemporaryDirectory | None = None
        self._remote = target.startswith(("http://", "https://"))
        try:
            if self._remote:
                self.where = checked_url(target)
                self._task: dict[str, Any] = {"kind": "endpoint", "url": self.where, "token": read_token(self.where)}
                self._task["connection"] = asdict(connection)
                self._seconds = connection.patience + GRACE
            else:
                self._path = (
                    self._downloaded(target, registry) if target.startswith("models:/") else Path(file or target)
                )
                self._task = {
                    "kind": "convolution" if convolution else "onnx",
                    "path": str(self._path),
                    "where": target,
                }
                self._seconds = connection.timeout
            (self.inputs, self.outputs, self.batch_size, self.description, self.digest), process = self._open()
            process.end()
        except BaseException:
            self.close()
            raise

    def ask(self, images: np.ndarray, input: str, output: str | None) -> np.ndarray:
        """Asks about one batch.

        Raises:
            Unavailable: no answer within the limits.
            MedmarkError: it is no answer, or the suspect is not what it was when it was opened.
        """
        if self._process is None:
            said, process = self._open()
            if said != (self.inputs, self.outputs, self.batch_size, self.description, self.digest):
                process.end()
                raise MedmarkError(f"suspect {self.where} has changed since it was opened; start again")
            self._process = process
        stated, data = pack(images)
        try:
            answer = self._process.ask(stated | {"input": input, "output": output}, data, self._seconds)
            return unpack(*answer)
        except Unavailable:
            self._process = None
            raise
        except ValueError as error:
            process, self._process = self._process, None
            process.broken(error)

    def close(self) -> None:
        """Ends its process and removes what was downloaded."""
        if self._process is not None:
            self._process.end()
            self._process = None
        if self._folder is not None:
            self._folder.cleanup()

    def _downloaded(self, uri: str, registry: str | None) -> Path:
        self._folder = tempfile.TemporaryDirectory()
        task = {"kind": "registry", "uri": uri, "registry": registry, "folder": self._folder.name}
        with Process(self.where, task, self._connection, secrets=True) as process:
            said = process.open(self._opening)
            path = Path(str(said.get("path"))[:4096])
            if "\0" in str(path) or not path.resolve().is_relative_to(Path(self._folder.name).resolve()):
                process.broken(ValueError("a path elsewhere"))
        return path

    @property
    def _opening(self) -> float:
        return max(OPENING, self._connection.timeout)

    def _open(self) -> tuple[tuple, Process]:
        """Opens the suspect; returns what it is, and its process."""
        if not self._remote:
            model_files(self._path, [], self.where)
        process = Process(self.where, self._task, self._connection, secrets=self._remote)
        try:
            said = process.open(self._seconds if self._remote else self._opening)
            inputs, outputs = _tensors(said.get("inputs")), _tensors(said.get("outputs"))
            if self._remote:
                description = said.get("description")
                if not isinstance(description, dict):
                    raise ValueError("no description")
                digest = endpoint_digest(self.where, description)
            else:
                description = None
                digest = digest_of(model_files(self._path, _locations(said.get("locations")), self.where))
            batch = said.get("batch_size")
            if type(batch) is not int or batch < 1:
                raise ValueError("no batch size")
        except ValueError as error:
            process.broken(error)
        except BaseException:
            process.end()
            raise
        return (inputs, outputs, batch, description, digest), process


def external_files(path: Path) -> list[str]:
    """Lists the files that an ONNX model keeps its weights in, as it names them.

    Args:
        path: of the ONNX file.

    Raises:
        MedmarkError: it cannot be read within the limits of :class:`Connection`.
    """
    with Process(str(path), {"kind": "locations", "path": str(path)}, Connection(), secrets=False) as process:
        try:
            return _locations(process.open(OPENING).get("locations"))
        except ValueError as error:
            process.broken(error)


def _end(process: subprocess.Popen, channel: Channel) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its session is its own
    process.wait()
    channel.close()


def _locations(said: object) -> list[str]:
    if not isinstance(said, list) or len(said) > MAX_LOCATIONS or not all(isinstance(name, str) for name in said):
        raise ValueError("no list of files")
    return said


def _tensors(said: object) -> dict[str, tuple[tuple[int | None, ...], str]]:
    """Declared tensors, as a ``Backend`` has them."""
    if not isinstance(said, dict) or len(said) > MAX_TENSORS:
        raise ValueError("no tensors")
    found = {}
    for name, tensor in said.items():
        shape, kind = tensor if isinstance(tensor, list) and len(tensor) == 2 else (None, None)
        if not isinstance(shape, list) or not all(n is None or type(n) is int and n > 0 for n in shape):
            raise ValueError("a tensor of no shape")
        found[name] = tuple(shape), str(kind)[:60]
    return found
