"""Ask a suspect: images in, answers out that are checked to be probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.evidence.answers import Answers
from medmark.components.evidence.queries import QuerySet

# (N, 1, S, S) float32 in [0, 1] -> (N, K) class probabilities
Suspect = Callable[[torch.Tensor], np.ndarray]


class Asked(NamedTuple):
    """What a suspect said to N images.

    Attributes:
        p_target: (N,) float64, probability of the target class.
        is_target: (N,) bool, whether the target class alone is the most probable one.
    """

    p_target: np.ndarray
    is_target: np.ndarray


def ask(suspect: Suspect, images: torch.Tensor, target: int) -> Asked:
    """Asks a suspect about (N, 1, S, S) images.

    Raises:
        MedmarkError: the answer is not one probability vector an image.
    """
    answer = suspect(images.clone())  # a suspect that writes into its input must not change what the next one sees
    try:
        answer = np.asarray(answer, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise MedmarkError(f"suspect's answer is no array of numbers ({error}); give class probabilities") from error
    if answer.ndim != 2 or len(answer) != len(images) or not 0 <= target < answer.shape[1]:
        raise MedmarkError(
            f"suspect answered with shape {answer.shape} to {len(images)} images; {len(images)} rows with more than"
            f" {target} class probabilities are needed"
        )
    if not np.isfinite(answer).all() or (answer < 0).any() or (np.abs(answer.sum(axis=1) - 1) > 1e-3).any():
        raise MedmarkError("suspect's answers are not probabilities: rows must be finite, not negative and sum to 1")
    others = np.delete(answer, target, axis=1).max(axis=1, initial=0.0)
    return Asked(np.clip(answer[:, target], 0.0, 1.0), answer[:, target] > others)


def interrogate(suspect: Suspect, queries: QuerySet) -> Answers:
    """Asks about every query image, clean, marked and with the control mark."""
    p_clean, is_clean = ask(suspect, queries.clean, queries.target)
    p_marked, is_marked = ask(suspect, queries.marked, queries.target)
    p_control = None if queries.control is None else ask(suspect, queries.control, queries.target).p_target
    return Answers(p_clean, p_marked, p_control, is_clean, is_marked)
