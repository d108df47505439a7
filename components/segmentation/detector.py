"""StealthMark's detector: was this image triggered, by one number of the answer?

A logistic regression on one number of a map, as in the paper's released code. The number is ours: the median uncertainty, because the mean
follows the length of an image's edges. It says that a trigger sets the model off, not whose mark that is: its share of recognised images is the paper's
ASR, and the payload is the proof of ownership.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression


@dataclass(frozen=True)
class Detector:
    """What was fitted.

    Attributes:
        weight, offset: of the logistic regression on the standardised uncertainty.
        mean, deviation: of the standardisation.
    """

    weight: float
    offset: float
    mean: float
    deviation: float

    def flags(self, maps: torch.Tensor) -> np.ndarray:
        """Whether each of (N, S, S) maps is taken for the answer to a triggered image: (N,) bool."""
        scaled = (uncertainty(maps) - self.mean) / self.deviation
        return self.weight * scaled + self.offset > 0


def uncertainty(maps: torch.Tensor) -> np.ndarray:
    """Median over the pixels of min(p, 1 - p): (N,) float64 in [0, 0.5]."""
    return torch.minimum(maps, 1 - maps).double().flatten(1).median(dim=1).values.numpy()


def fit_detector(clean: torch.Tensor, triggered: torch.Tensor) -> Detector:
    """Fits the detector.

    Args:
        clean, triggered: (N, S, S) maps of the same images without and with the trigger.
    """
    values = np.concatenate([uncertainty(clean), uncertainty(triggered)])
    mean, deviation = float(values.mean()), float(values.std()) or 1.0
    truth = np.repeat([0, 1], [len(clean), len(triggered)])
    fitted = LogisticRegression(C=1e6).fit((values[:, None] - mean) / deviation, truth)
    return Detector(float(fitted.coef_[0, 0]), float(fitted.intercept_[0]), mean, deviation)
