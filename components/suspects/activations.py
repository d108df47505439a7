"""What the last convolution of a model in an ONNX file gives: the same limits and distrust as for suspects."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import torch
from medmark.components.suspects.contract import Contract
from medmark.components.suspects.http import Connection
from medmark.components.suspects.messages import MAX_ANSWER
from medmark.components.suspects.process import IsolatedSuspect
from medmark.components.suspects.suspects import Backend, Shape, Suspect


class ConvolutionOf(Suspect):
    """A model as a function: (N, C, S, S) float32 in [0, 1] -> (N, K, H, W) float32, the activations of its last convolution.

    Attributes and errors are those of :class:`Suspect`.
    """

    def __init__(self, backend: Backend, contract: Contract, *, channels: int):
        super().__init__(backend, contract, channels=channels, class_names=[])
        if not self._whole_batches:  # float64 activations of a batch have to fit into one message
            known = [side for shape, _ in backend.outputs.values() for side in shape[1:] if side is not None]
            fitting = MAX_ANSWER // (8 * prod(known)) if len(known) == 3 else 1
            self.batch_size = max(1, min(self.batch_size, fitting))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Asks about images, batch by batch.

        Raises:
            MedmarkError: wrong images, or an answer that is no activation of a convolution.
        """
        return torch.from_numpy(np.concatenate([self._read(answer) for answer in self._answers(images)]))

    def _read(self, answer: np.ndarray) -> np.ndarray:
        if answer.dtype.kind != "f" or answer.ndim != 4 or not answer.size:
            self._refuse(f"its convolution gives {answer.dtype} of shape {answer.shape}", "export the model again")
        return answer.astype(np.float32)

    def _check_output(self, shape: Shape | None, kind: str | None) -> None:
        """Nothing is promised of it."""


def open_convolution(path: str | Path, contract: Contract, *, channels: int) -> ConvolutionOf:
    """Opens an ONNX file for the activations of its last convolution.

    Args:
        path: of the file.
        contract: how the model wants its images; what it answers does not matter.
        channels: of the images that it is shown, 1 or 3.

    Raises:
        MedmarkError: it cannot be opened, has no convolution, or does not fit the contract.
        Unavailable: it does not open within the limits of :class:`Connection`.
    """
    contract = replace(contract, output=None, classes=None)
    backend = IsolatedSuspect(str(path), Connection(), convolution=True)
    try:
        return ConvolutionOf(backend, contract, channels=channels)
    except BaseException:
        backend.close()
        raise
