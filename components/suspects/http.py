"""Ask suspects over HTTP by the Open Inference Protocol v2, which KServe, Triton and MLServer speak.

The server is hostile: what is read of it is bounded in size and time, its words appear in messages only as one short line,
and it is never followed elsewhere. The token appears in no message. An audit talks to it from a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import numpy as np
import requests
from medmark.components.base.addresses import is_local
from medmark.components.base.errors import MedmarkError
from medmark.components.base.text import one_line
from medmark.components.suspects.contract import refuse_unknown
from medmark.components.suspects.messages import MAX_ANSWER, Unavailable
from urllib3.exceptions import HTTPError, InvalidHeader, ReadTimeoutError
from urllib3.util.retry import Retry

TOKEN = "MEDMARK_SUSPECT_TOKEN"  # environment variable with the bearer token
MODEL_PATH = re.compile(r"(/[\w.~%-]+)*/v2/models/[\w.~%-]+(/versions/[\w.~%-]+)?", re.ASCII)
MAX_DESCRIPTION = 1 << 16  # bytes of what a server says of its model; arbitrary
MAX_WAIT = 60.0  # seconds between two tries, whatever the server asks for; arbitrary
NUMPY_TYPES = {"FP16": "float16", "FP32": "float32", "FP64": "float64", "BYTES": "str"}
NUMPY_TYPES |= {f"{sign}INT{bits}": f"{sign}int{bits}".lower() for sign in ("", "U") for bits in (8, 16, 32, 64)}
DATATYPES = {"float16": "FP16", "float32": "FP32", "float64": "FP64"}


@dataclass(frozen=True)
class Connection:
    """How to question a suspect, and what it may use up. The defaults are arbitrary but for ``memory``.

    Attributes:
        batch_size: images a request to an endpoint.
        timeout: seconds for one request to an endpoint, from its start to the answer's last byte, or for one batch of an
            ONNX file.
        retries: further tries after a broken connection, 429 or 5xx.
        backoff: seconds before the first of them; doubled each time, or what Retry-After says if that is longer, at
            most 60.
        rate: requests a second, at most; None: as fast as the server answers.
        ca_bundle: PEM file of the certificate authorities to trust; None: the usual ones.
        memory: GiB of address space that the process which questions a suspect may use. Measured: the smallest model needs
            0.4, with 32 images of 224 px a ResNet-18 0.7 and a DenseNet-121 0.9, a model of 1 GiB 2.2.

    Raises:
        MedmarkError: a value outside these.
    """

    batch_size: int = 8
    timeout: float = 30.0
    retries: int = 4
    backoff: float = 0.5
    rate: float | None = None
    ca_bundle: str | None = None
    memory: float = 4.0

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Connection:
        """Makes a connection from its fields as JSON has them.

        Raises:
            MedmarkError: an unknown field, or a value that a connection refuses.
        """
        refuse_unknown(values, [field.name for field in fields(cls)], "connection")
        return cls(**values)

    def __post_init__(self) -> None:
        positive = min(self.batch_size, self.timeout, self.memory, 1 if self.rate is None else self.rate) > 0
        finite = math.isfinite(self.timeout) and math.isfinite(self.memory) and math.isfinite(self.backoff)
        if not positive or not finite or self.retries < 0 or self.backoff < 0:
            raise MedmarkError(
                f"{self}; batch size, timeout, rate and memory must be above 0, retries and backoff not below, all finite"
            )
        if self.ca_bundle is not None and not Path(self.ca_bundle).is_file():
            raise MedmarkError(f"no file of certificate authorities: {self.ca_bundle}; give a PEM file")

    @property
    def patience(self) -> float:
        """Seconds that one question may take with all its tries and the waits between them."""
        spaced = 1 / self.rate if self.rate else 0.0
        return (self.retries + 1) * (self.timeout + spaced) + self.retries * MAX_WAIT


class Again(Exception):
    """A try failed in a way that may pass.

    Attributes:
        wait: seconds that the server asks to be left alone.
    """

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


class Late(BaseException):
    """The time for one request is over; no library on the way takes this for an error of its own."""


class Endpoint:
    """A model server; a ``Backend`` of :mod:`medmark.components.suspects.suspects`.

    To be used in the main thread of a process, which alone can be interrupted whatever it waits for.

    Args:
        url: as :func:`checked_url` gives it.
        connection: limits and patience.
        token: as :func:`read_token` gives it.

    Attributes:
        description: what the server says of its model.

    Raises:
        MedmarkError: the server refuses, or is none.
        Unavailable: no answer.
    """

    def __init__(self, url: str, connection: Connection, token: str | None):
        self._url = self.where = url
        self.batch_size = connection.batch_size
        self._connection, self._token, self._next = connection, token, 0.0
        self._session = self._new_session()
        described = self._request("GET", self._url)
        self.inputs = self._tensors(described, "inputs")
        self.outputs = self._tensors(described, "outputs")
        self.description = {key: described.get(key) for key in ("name", "versions", "platform", "inputs", "outputs")}
        if len(json.dumps(self.description)) > MAX_DESCRIPTION:
            self._fail(f"describes itself in more than {MAX_DESCRIPTION} bytes", "is it an Open Inference v2 server?")
        self.digest = endpoint_digest(url, self.description)

    def _new_session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = not is_local(urlsplit(self._url).hostname or "")  # no proxy for this machine itself
        return session

    def ask(self, images: np.ndarray, input: str, output: str | None) -> np.ndarray:
        """Asks about one batch."""
        tensor = {"name": input, "shape": list(images.shape), "datatype": DATATYPES[images.dtype.name]}
        question: dict = {"inputs": [tensor | {"data": images.ravel().tolist()}]}
        if output is not None:
            question["outputs"] = [{"name": output}]
        outputs = self._request("POST", f"{self._url}/infer", question).get("outputs")
        found = [o for o in outputs if isinstance(o, dict)] if isinstance(outputs, list) else []
        if output is not None:
            found = [o for o in found if o.get("name") == output]
        if len(found) != 1:
            self._fail(f"gives {len(found)} outputs where one is needed", "name the suspect's output")
        return self._array(found[0])

    def _array(self, output: dict) -> np.ndarray:
        """Reads an output as an array, of ``str`` objects for BYTES."""
        kind = NUMPY_TYPES.get(str(output.get("datatype")))
        try:
            if kind is None:
                raise ValueError("unknown datatype")
            shape = tuple(int(side) for side in output["shape"])
            flat = np.asarray(output["data"], dtype=object).ravel().tolist()
            found = {type(value) for value in flat}
            wanted = {str} if kind == "str" else {int, float} if kind.startswith("float") else {int}
            if not found <= wanted:
                raise ValueError(f"{kind} is announced, {sorted(t.__name__ for t in found - wanted)} found")
            return np.array(flat, dtype=object if kind == "str" else kind).reshape(shape)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            self._fail(f"gives an output that is no array ({error})", "check the server", error)

    def _tensors(self, described: dict, what: str) -> dict[str, tuple[tuple[int | None, ...], str]]:
        """Reads the declared tensors; empty where the server declares none, as MLServer may."""
        found = {}
        try:
            for tensor in described.get(what) or []:
                shape = tuple(int(side) if int(side) > 0 else None for side in tensor["shape"])
                found[str(tensor["name"])] = shape, NUMPY_TYPES.get(tensor["datatype"], str(tensor["datatype"])[:20])
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            self._fail(f"describes its {what} wrongly ({error!r})", "is it an Open Inference v2 server?", error)
        return found

    def _request(self, method: str, url: str, question: dict | None = None) -> dict:
        """Gets one answer, after as many tries as the connection allows."""
        wait = self._connection.backoff
        for left in range(self._connection.retries, -1, -1):
            try:
                return self._try(method, url, question)
            except Again as error:
                if not left:
                    tries = self._connection.retries + 1
                    self._fail(f"gives no answer after {tries} tries: {error}", "try again later", error, Unavailable)
                time.sleep(min(max(wait, error.wait), MAX_WAIT))
                wait = min(wait * 2, MAX_WAIT)
        raise AssertionError("unreachable")

    def _try(self, method: str, url: str, question: dict | None) -> dict:
        connection = self._connection
        time.sleep(max(0.0, self._next - time.monotonic()))
        self._next = time.monotonic() + (1 / connection.rate if connection.rate else 0.0)
        try:
            with _within(connection.timeout):
                response = self._session.request(
                    method,
                    url,
                    json=question,
                    headers={"Accept-Encoding": "identity"},
                    auth=self._authorise,  # also keeps requests from looking for a password in ~/.netrc
                    timeout=connection.timeout,
                    verify=connection.ca_bundle or True,
                    allow_redirects=False,
                    stream=True,
                )
                with response:
                    text = self._read(response)
        except Late as error:
            self._session.close()
            self._session = self._new_session()  # the old one was left in the middle of something
            raise Again(f"nothing within {connection.timeout:g} s") from error
        except requests.exceptions.SSLError as error:
            self._fail(f"is not trusted ({error})", "give the PEM file of its certificate authority", error)
        except (requests.exceptions.Timeout, ReadTimeoutError) as error:
            raise Again(f"nothing within {connection.timeout:g} s") from error
        except (requests.RequestException, HTTPError, OSError) as error:
            raise Again(self._hide(str(error))) from None  # the cause may quote a server that echoes the token
        return self._understood(response, text)

    def _authorise(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request

    def _read(self, response: requests.Response) -> bytearray:
        """The body, in bounded size."""
        if response.headers.get("Content-Encoding", "identity") != "identity":
            self._fail("sends a compressed answer unasked", "switch compression off at the server")
        text = bytearray()
        while chunk := response.raw.read1(1 << 16):  # what has arrived; read() would wait for all of it
            text += chunk
            if len(text) > MAX_ANSWER:
                self._fail(f"answers with more than {MAX_ANSWER} bytes", "is this the right URL?")
        return text.replace(self._token.encode(), b"***") if self._token else text

    def _understood(self, response: requests.Response, text: bytearray) -> dict:
        status, said = response.status_code, text[:1000].decode(errors="replace")
        if status == 429 or status >= 500:
            raise Again(f"status {status}: {said}", _retry_after(response))
        if status in (401, 403):
            self._fail(f"refuses us with status {status}: {said}", f"set {TOKEN} to a valid token")
        if 300 <= status < 400:
            self._fail(f"redirects (status {status})", "give the final URL")
        if status != 200:
            self._fail(f"answers with status {status}: {said}", "check the URL, the contract and the batch size")
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError) as error:
            self._fail(f"gives no JSON ({error})", "is it an Open Inference v2 server?", error)
        if not isinstance(answer, dict):
            self._fail("gives no JSON object", "is it an Open Inference v2 server?")
        return answer

    def _hide(self, text: str) -> str:
        return text.replace(self._token, "***") if self._token else text

    def _fail(
        self, wrong: str, remedy: str, cause: Exception | None = None, kind: type[MedmarkError] = MedmarkError
    ) -> NoReturn:
        wrong = one_line(wrong, 300, hidden=[self._token])
        raise kind(f"suspect {self.where} {wrong}; {remedy}") from cause


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Ends what the main thread does with :class:`Late`, whatever it waits for. A timer that ran before runs on."""

    def end(*_: object) -> NoReturn:
        raise Late

    started, handler = time.monotonic(), signal.signal(signal.SIGALRM, end)
    left, again = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - started), 0.001), again)


def endpoint_digest(url: str, description: dict) -> str:
    """Returns the SHA-256 of a model server: of its URL and of what it says of its model."""
    return hashlib.sha256(json.dumps([url, description], sort_keys=True).encode()).hexdigest()


def checked_url(url: str) -> str:
    """Checks the URL of a model, and returns it without a last slash.

    Raises:
        MedmarkError: it is not ``http(s)://host/v2/models/NAME[/versions/V]``, below a gateway's path or not.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise MedmarkError("the suspect's URL is malformed; give http(s)://host:port/v2/models/NAME") from error
    if parts.username or parts.password or "?" in url or "#" in url:
        raise MedmarkError(f"the suspect's URL holds more than an address; give the token in {TOKEN}, not in the URL")
    path = parts.path.rstrip("/")
    if not host or not MODEL_PATH.fullmatch(path):
        raise MedmarkError(f"no model at {url!r:.200}; give http(s)://host:port/v2/models/NAME[/versions/VERSION]")
    return f"{parts.scheme}://{parts.netloc}{path}"


def read_token(url: str) -> str | None:
    """Reads the bearer token from ``MEDMARK_SUSPECT_TOKEN``; None if there is none.

    Raises:
        MedmarkError: no header can hold it, or it would travel in the clear.
    """
    token = os.environ.get(TOKEN)
    if token and (not token.isascii() or not token.isprintable() or " " in token):
        raise MedmarkError(f"the token in {TOKEN} holds a space or a control character; set it again")
    if token and url.startswith("http://") and not is_local(urlsplit(url).hostname or ""):
        raise MedmarkError(f"{TOKEN} is set, and {url} would get it in the clear; use https, or unset {TOKEN}")
    return token or None


def _retry_after(response: requests.Response) -> float:
    try:
        return Retry().parse_retry_after(response.headers.get("Retry-After", "0"))
    except (InvalidHeader, ValueError, OverflowError):  # such a header says nothing
        return 0.0
