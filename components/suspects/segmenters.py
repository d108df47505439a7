"""Open and ask suspects that segment: the same formats, limits and distrust as for classifiers (:mod:`medmark.components.suspects.suspects`)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from medmark.components.suspects.contract import Contract
from medmark.components.suspects.http import Connection
from medmark.components.suspects.messages import MAX_ANSWER
from medmark.components.suspects.suspects import FLOATS, Backend, Shape, Suspect, open_as
from scipy import special


class SegmenterSuspect(Suspect):
    """A suspect as a function: (N, C, S, S) float32 in [0, 1] -> (N, H, H) float64 probabilities of the foreground.

    It may answer with (N, H, H), (N, 1, H, H), or (N, 2, H, H) of background and foreground, in the contract's order of the
    classes, as probabilities or logits. Attributes and errors are those of :class:`Suspect`.
    """

    def __init__(self, backend: Backend, contract: Contract, *, channels: int, class_names: list[str]):
        super().__init__(backend, contract, channels=channels, class_names=class_names)
        self._foreground = self._classes.index(class_names[1])
        # a float32 answer for each pixel and class has to fit into one message
        if not self._whole_batches:
            self.batch_size = max(1, min(self.batch_size, MAX_ANSWER // (2 * 4 * self.size**2)))

    def __call__(self, images: torch.Tensor) -> np.ndarray:
        """Asks about images, batch by batch.

        Raises:
            MedmarkError: wrong images, or an answer that does not fit the contract.
        """
        return np.concatenate([self._maps(answer) for answer in self._answers(images)])

    def _check_output(self, shape: Shape | None, kind: str | None) -> None:
        if self._contract.answers == "labels":
            self._refuse(
                "masks are all that it answers with",
                "the mark lies in the probabilities and cannot be read from masks alone",
            )
        if kind is not None and kind not in FLOATS:
            self._refuse(f"it answers with {kind}", "a segmenter that answers with probabilities or logits is needed")
        if shape and (len(shape) not in (3, 4) or len(shape) == 4 and shape[1] not in (None, 1, 2)):
            self._refuse("its output is no map", "(N, H, H), (N, 1, H, H) or (N, 2, H, H) is needed")

    def _maps(self, answer: np.ndarray) -> np.ndarray:
        if answer.dtype.kind != "f" or answer.ndim not in (3, 4) or answer.ndim == 4 and answer.shape[1] not in (1, 2):
            self._refuse(
                f"it answers with {answer.dtype} of shape {answer.shape}",
                "(N, H, H), (N, 1, H, H) or (N, 2, H, H) is needed",
            )
        values, logits = answer.astype(np.float64), self._contract.answers == "logits"
        if values.shape[-1] != values.shape[-2]:
            self._refuse(
                f"it answers with maps of {values.shape[-2]} x {values.shape[-1]}",
                "square ones are needed, as the images are",
            )
        if not np.isfinite(values).all():
            self._refuse("it answers with numbers that are not finite", "check the contract's normalisation")
        if values.ndim == 4 and values.shape[1] == 2:
            values = (special.softmax(values, axis=1) if logits else values)[:, self._foreground]
        else:
            values = values.reshape(len(values), *values.shape[-2:])
            values = special.expit(values) if logits else values
        if values.min() < 0 or values.max() > 1:
            self._refuse("its answers are no probabilities", "are these logits?")
        return values


def square_map(numbers: np.ndarray) -> np.ndarray:
    """Gives the map of one image, (H * H,), its shape back."""
    side = math.isqrt(len(numbers))
    return numbers.reshape(side, side)


def open_segmenter(
    target: str,
    contract: Contract,
    *,
    channels: int,
    class_names: list[str],
    connection: Connection | None = None,
    registry: str | None = None,
    file: str | Path | None = None,
) -> SegmenterSuspect:
    """Opens a suspect that segments.

    Args:
        target, contract, connection, registry, file: see :func:`medmark.components.suspects.suspects.open_suspect`.
        channels: of the evidence's images, 1 or 3.
        class_names: of the evidence: background and foreground.

    Raises:
        MedmarkError: it cannot be opened, or does not fit the contract.
        Unavailable: it gives no answer, or cannot be opened within its limits.
    """
    return open_as(
        target,
        lambda backend: SegmenterSuspect(backend, contract, channels=channels, class_names=class_names),
        connection=connection,
        registry=registry,
        file=file,
    )
