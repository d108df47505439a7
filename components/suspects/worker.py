"""The process that opens and questions one suspect; :mod:`medmark.components.suspects.process` starts it.

It imports neither torch nor, but for a registry, MLflow: a third of a second passes until it opens a model (measured).
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from medmark.components.base.errors import MedmarkError
from medmark.components.suspects.messages import (
    MAX_ANSWER,
    MAX_QUESTION,
    Channel,
    Unavailable,
    pack,
    unpack,
)

if TYPE_CHECKING:  # only one of the two is needed at a time
    from medmark.components.suspects.http import Endpoint
    from medmark.components.suspects.onnx_model import OnnxModel

PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def main() -> None:
    """Serves one task, whose socket and parent process are the arguments, until the other end is gone."""
    end, parent = (int(argument) for argument in sys.argv[1:])
    with Channel(socket.socket(fileno=end)) as channel:
        _end_with(parent)
        try:
            task, _ = channel.receive(limit=0)
            opened: list = []
            _serve(channel, task, lambda: (_open(task, opened), b""))
            while True:
                task, data = channel.receive(limit=MAX_QUESTION)
                _serve(channel, task, lambda: _answer(opened[0], task, data))  # noqa: B023
        except (EOFError, OSError):  # the other end is gone
            pass


def _serve(channel: Channel, task: dict, work: Callable[[], tuple[dict, bytes | memoryview]]) -> None:
    used = math.ceil(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
    seconds = used + math.ceil(task["seconds"] * task["threads"]) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    try:
        stated, data = work()
    except Exception as error:
        said = str(error)[:2000] or type(error).__name__
        stated, data = {"error": said, "unavailable": isinstance(error, (Unavailable, MemoryError))}, b""
    channel.send(stated, data)


def _open(task: dict, opened: list) -> dict:
    """What an opened suspect says of itself, or what else the task asks for."""
    kind = task["kind"]
    if kind == "endpoint":
        from medmark.components.suspects.http import Connection, Endpoint

        _limit(task["memory"], 0)
        endpoint = Endpoint(task["url"], Connection(**task["connection"]), task["token"])
        opened.append(endpoint)
        return _declared(endpoint) | {"description": endpoint.description}
    from medmark.components.suspects.model_files import MAX_BYTES
    from medmark.components.suspects.onnx_model import OnnxModel, download, external_locations, load

    _limit(task["memory"], MAX_BYTES if kind == "registry" else 0)
    if kind == "registry":
        return {"path": download(task["uri"], task["registry"], task["folder"])}
    if kind == "locations":
        return {"locations": sorted(external_locations(load(task["path"], task["path"])))}
    model = OnnxModel(task["path"], task["where"], threads=task["threads"], convolution=kind == "convolution")
    opened.append(model)
    return _declared(model) | {"locations": model.locations}


def _declared(backend: Endpoint | OnnxModel) -> dict[str, Any]:
    return {"inputs": backend.inputs, "outputs": backend.outputs, "batch_size": backend.batch_size}


def _answer(backend: Endpoint | OnnxModel, task: dict, data: bytearray) -> tuple[dict, bytes | memoryview]:
    answer = backend.ask(unpack(task, data), task["input"], task["output"])
    try:
        stated, packed = pack(answer)
    except ValueError as error:
        raise MedmarkError(
            f"suspect {backend.where} answers with {error}; numbers or class names are needed"
        ) from error
    if len(packed) > MAX_ANSWER:
        raise MedmarkError(f"suspect {backend.where} answers with more than {MAX_ANSWER} bytes; is this a classifier?")
    return stated, packed


def _limit(memory: int, file_size: int) -> None:
    """Bounds this process and whatever it starts: bytes of memory, and of one file that it writes; no core dumps."""
    for kind, limit in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, file_size),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))


def _end_with(parent: int) -> None:
    """Lets the kernel end this process when the one that started it is gone, whatever it is doing then."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    main()
