"""Messages between an audit and the process that questions a suspect.

A message is a JSON object and bytes. A message may come from a process that a hostile model has taken over:
its size and its time are bounded, and nothing in it is ever run or unpickled.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any

import numpy as np
from medmark.components.base.errors import MedmarkError

HEAD = struct.Struct("<IQ")  # bytes of the JSON object, bytes behind it
MAX_OBJECT = 1 << 20  # bytes; arbitrary
MAX_ANSWER = 16 << 20  # bytes of one answer, arbitrary; a thousand classes for a thousand images fit
MAX_QUESTION = 256 << 20  # bytes of one batch of images; arbitrary, an image of 4096 px in three channels fits
MAX_SIDES = 8  # of an array; arbitrary
NUMBERS = ("bool", "float16", "float32", "float64", *(f"{s}int{bits}" for s in ("", "u") for bits in (8, 16, 32, 64)))


class Unavailable(MedmarkError):
    """A suspect that gives no answer now, or none within its limits: nothing is known of it, and others can be asked."""


class Channel:
    """One end of a connection, a context manager.

    Args:
        end: a connected stream socket, which is closed with the channel.
    """

    def __init__(self, end: socket.socket):
        self._end = end

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._end.close()

    def send(self, stated: dict, data: bytes | memoryview = b"", *, seconds: float | None = None) -> None:
        """Sends a message.

        Raises:
            TimeoutError: the other end does not take it in so many seconds.
            OSError: the other end is gone.
        """
        text = json.dumps(stated).encode()
        deadline = _deadline(seconds)
        for part in (HEAD.pack(len(text), len(data)) + text, data):
            self._end.settimeout(_left(deadline))
            self._end.sendall(part)

    def receive(self, *, limit: int, seconds: float | None = None) -> tuple[dict, bytearray]:
        """Takes a message.

        Args:
            limit: bytes behind the JSON object, at most.
            seconds: for all of it; None: any time.

        Raises:
            TimeoutError: it is not there in time.
            EOFError: the other end is gone.
            ValueError: it is none, or too large.
        """
        deadline = _deadline(seconds)
        text_size, size = HEAD.unpack(self._take(HEAD.size, deadline))
        if text_size > MAX_OBJECT or size > limit:
            raise ValueError(f"a message of {text_size} and {size} bytes")
        try:
            stated = json.loads(self._take(text_size, deadline))
        except RecursionError as error:
            raise ValueError("a message that is nested too deep") from error
        if not isinstance(stated, dict):
            raise ValueError("a message that is no object")
        return stated, self._take(size, deadline)

    def _take(self, size: int, deadline: float | None) -> bytearray:
        taken = bytearray()
        while len(taken) < size:
            self._end.settimeout(_left(deadline))
            try:
                piece = self._end.recv(min(size - len(taken), 1 << 20))
            except ConnectionError as error:
                raise EOFError from error
            if not piece:
                raise EOFError
            taken += piece
        return taken


def pack(array: np.ndarray) -> tuple[dict[str, Any], bytes | memoryview]:
    """Packs an array of numbers or of ``str`` objects into a message.

    Raises:
        ValueError: of another type, or larger than an answer may be.
    """
    kind, shape = "str" if array.dtype == object else array.dtype.name, list(array.shape)
    data: bytes | memoryview
    if kind == "str":
        # a NUL parts them; one in a label makes it another label, which is refused as unknown
        data = "\0".join(str(label).replace("\0", "\ufffd") for label in array.ravel().tolist()).encode(
            errors="replace"
        )
    elif kind in NUMBERS:
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    else:
        raise ValueError(f"an array of {kind}")
    return {"dtype": kind, "shape": shape}, data


def unpack(stated: dict, data: bytearray) -> np.ndarray:
    """Unpacks the array of a message.

    Raises:
        ValueError: what is stated is no array, or not this one.
    """
    kind, shape = stated.get("dtype"), stated.get("shape")
    if not isinstance(shape, list) or len(shape) > MAX_SIDES or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("an array of no shape")
    count = 1
    for side in shape:
        count *= side
    if kind == "str":
        if data.count(b"\0") + 1 != max(count, 1):
            raise ValueError("an array of another size")
        labels = data.decode().split("\0") if count else []
        return np.array(labels, dtype=object).reshape(shape)
    if kind not in NUMBERS or count * np.dtype(kind).itemsize != len(data):
        raise ValueError("an array of another size or type")
    return np.frombuffer(data, dtype=kind).reshape(shape)


def _deadline(seconds: float | None) -> float | None:
    return None if seconds is None else time.monotonic() + seconds


def _left(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
