"""Open and ask suspect models: an ONNX file, a model of an MLflow registry, or an HTTP endpoint.

Nothing that a suspect gives is trusted. No pickle is opened, a suspect runs in a process of its own within limits, and an
answer that does not fit what the user says about the suspect is refused instead of repaired.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar

import numpy as np
import torch
from medmark.components.base.digests import canonical_json
from medmark.components.base.errors import MedmarkError
from medmark.components.delivery.places import Places, is_place
from medmark.components.suspects.contract import MAX_SIDE, Contract
from medmark.components.suspects.http import Connection
from medmark.components.suspects.messages import MAX_QUESTION
from medmark.components.suspects.model_files import MAX_BYTES, model_file
from medmark.components.suspects.process import IsolatedSuspect, external_files
from scipy import special

SUM_TOLERANCE = 1e-3  # that of verification.interrogation.ask
FLOATS = ("float16", "float32", "float64")
Shape = tuple[int | None, ...]  # of a tensor; sizes that are free are None
MAX_BATCH = 1024  # arbitrary, likewise
MADE_HERE = "model.onnx"  # name of a suspect that another step of the pipeline made
S = TypeVar("S", bound="Suspect")


class Backend(Protocol):
    """What gives the answers: a process that holds a model or talks to an endpoint.

    Attributes:
        where: for messages.
        digest: identifies the model or endpoint.
        inputs, outputs: declared tensors, name to (shape, NumPy type or ``str``); sizes that are free are None. Empty if
            the backend declares nothing.
        batch_size: images asked about at once.
        description: what an endpoint says of its model; None for a file.
    """

    where: str
    digest: str
    inputs: dict[str, tuple[Shape, str]]
    outputs: dict[str, tuple[Shape, str]]
    batch_size: int
    description: dict | None

    def ask(self, images: np.ndarray, input: str, output: str | None) -> np.ndarray:
        """Answers to one batch: an array of floats, whole numbers, or ``str`` objects."""

    def close(self) -> None:
        """Ends its processes."""


def open_suspect(
    target: str,
    contract: Contract,
    *,
    class_names: list[str],
    connection: Connection | None = None,
    registry: str | None = None,
    file: str | Path | None = None,
) -> SuspectModel:
    """Opens a suspect.

    Args:
        target: ``http(s)://host/v2/models/NAME[/versions/V]`` (Open Inference Protocol v2), a path that ends in
            ``.onnx``, or ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS`` of an MLflow registry, onnx flavour.
        contract: what the suspect expects and gives.
        class_names: of the evidence.
        connection: how to question it, and what it may use up; None: the defaults of :class:`Connection`.
        registry: URI of the MLflow registry; None: what MLflow is configured for.
        file: where the ONNX file of a target that ends in ``.onnx`` is, if not under that name.

    Raises:
        MedmarkError: it cannot be opened, or does not fit the contract.
        Unavailable: it gives no answer, or cannot be opened within its limits.
    """
    return open_as(
        target,
        lambda backend: SuspectModel(backend, contract, class_names),
        connection=connection,
        registry=registry,
        file=file,
    )


def open_as(
    target: str,
    make: Callable[[Backend], S],
    *,
    connection: Connection | None = None,
    registry: str | None = None,
    file: str | Path | None = None,
) -> S:
    """Opens a suspect of any kind; see :func:`open_suspect`.

    Args:
        target, connection, registry, file: as there.
        make: makes the suspect from its backend, which is closed if that fails.
    """
    if not target.startswith(("http://", "https://", "models:/")) and not target.endswith(".onnx"):
        raise MedmarkError(
            f"unknown kind of suspect: {target}; give an .onnx file, models:/NAME/VERSION, or"
            " http(s)://host/v2/models/NAME (other formats: export the model to ONNX)"
        )
    backend = IsolatedSuspect(target, connection or Connection(), registry=registry, file=file)
    try:
        return make(backend)
    except BaseException:
        backend.close()
        raise


class Suspect:
    """What suspects of any kind have in common: a backend, a contract, and the images that it is shown.

    Args:
        backend: gives the answers; open.
        contract: what the user says about it.
        channels: of the images that it is asked about: 1, which is repeated for a suspect that takes 3, or 3.
        class_names: of the evidence; part of the identity.

    Attributes:
        name: path, URI or URL.
        size: S, pixels.
        batch_size: images a request.
        contract: what the user says about it, completed by what it declares.
        model: digest of the file, or of the endpoint's URL and description.
        description: what an endpoint says of its model; None for a file.
        identity: SHA-256 over contract, model and the evidence's classes: of ``json.dumps``, with sorted keys, of the fields
            of :class:`Contract`, ``model`` and ``evidence``.

    Raises:
        MedmarkError: what the model declares does not fit the contract.
    """

    def __init__(self, backend: Backend, contract: Contract, *, channels: int, class_names: list[str]):
        self.name = backend.where
        self._backend, self._contract, self._shown_channels = backend, contract, channels
        self._classes = list(contract.classes or class_names)
        if sorted(self._classes) != sorted(class_names) or len(set(class_names)) != len(class_names):
            self._refuse(
                f"its classes {_some(self._classes)} are not those of the evidence, {_some(class_names)}",
                "name each class of the evidence once, in the order of the suspect's outputs",
            )
        self.model, self.description = backend.digest, backend.description
        name, shape, kind = self._tensor("input", backend.inputs, contract.input)
        if name is None:
            self._refuse("it does not declare its input", "give the tensor's name, size and channels")
        self._input = name
        self._output, answer, answer_kind = self._tensor("output", backend.outputs, contract.output)
        self._read_input(shape, kind)
        self._check_output(answer, answer_kind)
        self.contract = replace(
            contract,
            size=self.size,
            channels=self._channels,
            input=self._input,
            output=self._output,
            classes=tuple(self._classes),
        )
        try:
            canonical_json([asdict(self.contract), self.description])
        except ValueError:
            self._refuse("it says of itself what no JSON file can hold", "broken text and infinite numbers are refused")
        stated = asdict(self.contract) | {"model": self.model, "evidence": list(class_names)}
        self.identity = hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()

    def close(self) -> None:
        """Ends its process."""
        self._backend.close()

    def _answers(self, images: torch.Tensor) -> Iterator[np.ndarray]:
        """Asks about images, batch by batch; an array with a row an image for each."""
        shape = (len(images), self._shown_channels, self.size, self.size)
        if images.dtype != torch.float32 or tuple(images.shape) != shape or not len(images):
            raise MedmarkError(
                f"{self.name} is asked about {tuple(images.shape)} {images.dtype}; (N, {self._shown_channels}, {self.size},"
                f" {self.size}) float32 is needed"
            )
        shown = images.detach().cpu().numpy()
        for i in range(0, len(shown), self.batch_size):
            yield self._ask(shown[i : i + self.batch_size])

    def _ask(self, images: np.ndarray) -> np.ndarray:
        scale, mean, std = (np.float32(v) for v in (self._contract.scale, self._contract.mean, self._contract.std))
        images = ((images * scale - mean) / std).repeat(self._channels // self._shown_channels, axis=1)
        missing = self.batch_size - len(images) if self._whole_batches else 0
        asked = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])
        answer = self._backend.ask(asked.astype(self._dtype), self._input, self._output)
        if answer.shape[:1] != (len(asked),):
            self._refuse(f"it answers with shape {answer.shape} to {len(asked)} images", "one row an image is needed")
        return answer[: len(images)]

    def _check_output(self, shape: Shape | None, kind: str | None) -> None:
        """Refuses, before anything is asked, an output that the contract cannot be true of."""
        raise NotImplementedError

    def _tensor(
        self, what: str, declared: dict[str, tuple[Shape, str]], wanted: str | None
    ) -> tuple[str | None, Shape | None, str | None]:
        """Chooses the tensor to use: name, shape and type; shape and type are None where nothing is declared."""
        if not declared:
            return wanted, None, None
        if wanted is None and len(declared) == 1:
            wanted = next(iter(declared))
        if wanted not in declared or (what == "input" and len(declared) > 1):
            self._refuse(
                f"its {what}s are {_some(list(declared))}, not {'one' if wanted is None else repr(wanted)[:60]}",
                "name the one to use" if what == "output" else "a model of one image input is needed",
            )
        return wanted, *declared[wanted]

    def _read_input(self, shape: Shape | None, kind: str | None) -> None:
        """Sets the input's size, channels and type from the contract and from what the model declares."""
        if shape is None:
            shape, kind = (None, None, None, None), "float32"
        if kind not in FLOATS:
            self._refuse(f"its input is {kind}", "a model that takes floats is needed")
        if len(shape) != 4 or None not in shape[2:] and shape[2] != shape[3]:
            self._refuse(f"its input has shape {_shape(shape)}", "(N, channels, side, side) is needed")
        self._dtype = np.dtype(kind)
        self._channels = self._agree("channels", self._contract.channels, shape[1:2])
        self.size = self._agree("size", self._contract.size, shape[2:])
        if self._channels not in (self._shown_channels, 3) or not 1 <= self.size <= MAX_SIDE:
            self._refuse(
                f"its input has shape {_shape(shape)}",
                f"{'1 or ' * (self._shown_channels == 1)}3 channels of at most {MAX_SIDE} px are needed",
            )
        if shape[0] is not None and shape[0] > MAX_BATCH:
            self._refuse(f"it takes {shape[0]} images at once", f"at most {MAX_BATCH}; a free batch size is best")
        image = self._channels * self.size**2 * self._dtype.itemsize
        if image * (shape[0] or 1) > MAX_QUESTION:
            self._refuse(
                f"its input has shape {_shape(shape)}", f"at most {MAX_QUESTION} bytes are asked about at once"
            )
        self._whole_batches = shape[0] is not None
        self.batch_size = shape[0] or min(self._backend.batch_size, MAX_QUESTION // image)

    def _agree(self, what: str, stated: int | None, declared: tuple[int | None, ...]) -> int:
        known = {value for value in (stated, *declared) if value is not None}
        if not known:
            self._refuse(f"it leaves the {what} of its input free", f"give the {what} that it was trained with")
        if len(known) > 1:
            found = next(value for value in declared if value not in (None, stated))
            self._refuse(f"its input has {what} {found}, the contract says {stated}", f"correct the {what}")
        return known.pop()

    def _refuse(self, wrong: str, remedy: str) -> NoReturn:
        raise MedmarkError(f"suspect {self.name} does not fit: {wrong}; {remedy}")


class SuspectModel(Suspect):
    """A suspect as a function: (N, 1, S, S) float32 in [0, 1] -> (N, K) float64 probabilities, classes as in the evidence.

    A suspect that answers with labels gives one-hot rows. Attributes and errors are those of :class:`Suspect`, and ``label_only`` says
    whether the answers are labels.
    """

    def __init__(self, backend: Backend, contract: Contract, class_names: list[str]):
        self.label_only = contract.answers == "labels"
        super().__init__(backend, contract, channels=1, class_names=class_names)
        self._order = [self._classes.index(name) for name in class_names]

    def __call__(self, images: torch.Tensor) -> np.ndarray:
        """Asks about images, batch by batch.

        Raises:
            MedmarkError: wrong images, or an answer that does not fit the contract.
        """
        read = self._labels if self.label_only else self._probabilities
        return np.concatenate([read(answer) for answer in self._answers(images)])[:, self._order]

    def _check_output(self, shape: Shape | None, kind: str | None) -> None:
        """Refuses, before anything is asked, an output that the contract cannot be true of."""
        if kind is None:
            return
        self._check_kind(kind)
        if self.label_only or not shape:
            return
        columns = shape[1] if len(shape) == 2 else 1
        if len(shape) > 2 or columns not in (None, len(self._classes)) and (columns != 1 or len(self._classes) != 2):
            self._refuse(
                f"its output has shape {_shape(shape)}", f"one number for each of {len(self._classes)} classes"
            )

    def _check_kind(self, kind: str) -> None:
        if (kind in FLOATS) == self.label_only or not kind.startswith(("float", "int", "uint", "str")):
            self._refuse(f"it answers with {kind}, the contract says {self._contract.answers}", "correct the contract")

    def _labels(self, answer: np.ndarray) -> np.ndarray:
        """Turns (N,) or (N, 1) indices or names into one-hot rows."""
        self._check_kind("str" if answer.dtype == object else answer.dtype.name)
        if answer.ndim > 2 or answer.size != len(answer):
            self._refuse(f"it answers with labels of shape {answer.shape}", "one label an image is needed")
        known = self._classes if answer.dtype == object else range(len(self._classes))
        strange = [label for label in answer.ravel().tolist() if label not in known]
        if strange:
            self._refuse(f"it answers with the unknown label {strange[0]!r:.60}", f"known: {_some(self._classes)}")
        return np.eye(len(self._classes))[[known.index(label) for label in answer.ravel().tolist()]]

    def _probabilities(self, answer: np.ndarray) -> np.ndarray:
        """Turns (N, K) numbers, or (N,) or (N, 1) of the second of two classes, into probabilities."""
        self._check_kind("str" if answer.dtype == object else answer.dtype.name)
        classes, logits = len(self._classes), self._contract.answers == "logits"
        values = answer.astype(np.float64)
        if not np.isfinite(values).all():
            self._refuse("it answers with numbers that are not finite", "check the contract's normalisation")
        if classes == 2 and values.ndim <= 2 and values.size == len(values):
            second = special.expit(values.reshape(-1)) if logits else values.reshape(-1)
            values = np.stack([1 - second, second], axis=1)
        elif values.shape != (len(values), classes):
            self._refuse(f"it answers with shape {values.shape}", f"({len(values)}, {classes}) is needed")
        elif logits:
            values = special.softmax(values, axis=1)
        if (values < 0).any() or (np.abs(values.sum(axis=1) - 1) > SUM_TOLERANCE).any():
            self._refuse(
                "its answers are no probabilities: a row is negative or does not sum to 1", "are these logits?"
            )
        return values


@dataclass(frozen=True)
class UnopenedSuspect:
    """A suspect that gave no answer, or went beyond its limits, before it was asked anything.

    Attributes:
        name: path, URI or URL.
        error: what it did, in one line.
        contract: what was said about it.
        size, label_only, batch_size, model, description, identity: of :class:`SuspectModel`, as far as they are known.
    """

    name: str
    error: str
    contract: Contract
    size = batch_size = model = description = identity = None

    @property
    def label_only(self) -> bool:
        """Whether its answers would be labels."""
        return self.contract.answers == "labels"


def fetch_suspects(places: Places, targets: list[str]) -> dict[str, Path]:
    """Fetches the ONNX files among suspects that are in an object store, with their weights if these are beside them.

    Args:
        places: of the command.
        targets: suspects of any kind.

    Returns:
        Path by target, of those that were fetched.

    Raises:
        MedmarkError: as :meth:`medmark.components.delivery.places.Places.read`.
    """

    def weights(path: Path) -> list[str]:
        with suppress(MedmarkError):  # opening the suspect says what is wrong with it
            return external_files(path)
        return []

    onnx_files = [target for target in targets if is_place(target) and target.endswith(".onnx")]
    return {target: places.read(target, raw=True, limit=MAX_BYTES, beside=weights) for target in onnx_files}


def suspects_of_step(places: Places, targets: list[str], model: str | Path | None) -> tuple[list[str], dict[str, Path]]:
    """What a step of a pipeline is to question: the suspects that it was told of, and a model that another step made.

    Args:
        places: of the step.
        targets: suspects of any kind.
        model: an ONNX file, whatever its name, or a folder with one file that ends in ``.onnx`` and its weights; None: no such model.

    Returns:
        The suspects, that model last and under the name :data:`MADE_HERE`, and where the ONNX files are of those that are not under
        their names.

    Raises:
        MedmarkError: the folder has no such file or several, or what :func:`fetch_suspects` raises.
    """
    files = fetch_suspects(places, targets)
    if model is None:
        return targets, files
    return [*targets, MADE_HERE], {**files, MADE_HERE: model_file(model, ".onnx")}


def _shape(shape: Shape) -> str:
    return f"({', '.join('?' if side is None else str(side) for side in shape)})"


def _some(names: list[str]) -> str:
    """A few names, cut: they come from outside."""
    shown = ", ".join(repr(str(name)[:40]) for name in names[:8])
    return shown + (", ..." if len(names) > 8 else "")
