"""Asking one suspect: clean and marked images in, a decision with all its numbers out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.evidence.answers import Answers
from medmark.components.evidence.queries import QuerySet
from medmark.components.verification.statistics import (
    Effect,
    LabelOnly,
    conformal_p_value,
    label_only,
    paired_effect,
    upper_rate,
)
from medmark.components.verification.verdict import Decision, Thresholds, decide

# (N, 1, S, S) float32 in [0, 1] -> (N, K) class probabilities
Suspect = Callable[[torch.Tensor], np.ndarray]


@dataclass
class AuditResult:
    """All numbers of one audit.

    Attributes:
        name: of the suspect.
        effect, labels, conformal_p_value, conformal_resolution: see
            :mod:`medmark.components.verification.statistics`.
        control: effect of the other generator's mark, if there was one.
        contrast: effect of the release's mark against the other generator's on the same image.
        decision: see :mod:`medmark.components.verification.verdict`.
        answers: per image.
    """

    name: str
    effect: Effect
    labels: LabelOnly
    conformal_p_value: float
    conformal_resolution: float
    control: Effect | None
    contrast: Effect | None
    decision: Decision
    answers: Answers


def ask(suspect: Suspect, images: torch.Tensor, target: int) -> tuple[np.ndarray, np.ndarray]:
    """P(target) and "target alone is the most probable class" for each image.

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
    return np.clip(answer[:, target], 0.0, 1.0), answer[:, target] > others


def interrogate(suspect: Suspect, queries: QuerySet) -> Answers:
    """Asks about every query image, clean, marked and with the control mark."""
    p_clean, is_clean = ask(suspect, queries.clean, queries.target)
    p_marked, is_marked = ask(suspect, queries.marked, queries.target)
    p_control = None if queries.control is None else ask(suspect, queries.control, queries.target)[0]
    return Answers(p_clean, p_marked, p_control, is_clean, is_marked)


def judge(name: str, answers: Answers, benign: list[Answers], thresholds: Thresholds) -> AuditResult:
    """Tests one suspect's answers against those of benign models to the same images.

    Args:
        name: of the suspect.
        answers: its answers.
        benign: answers of models trained without the mark; the suspect must not be among them.
        thresholds: fixed beforehand.

    Raises:
        MedmarkError: there is no benign model, or too few images.
    """
    if not benign:
        raise MedmarkError(f"no benign model to compare {name} with; train at least one without the mark")
    effect = paired_effect(answers.p_clean, answers.p_marked, tau=thresholds.tau)
    # The benign models share the images, so their flips are not independent: the bound is taken on the worst of
    # them, which is wider than pooling would be.
    worst = max(int((other.is_marked & ~other.is_clean).sum()) for other in benign)
    labels = label_only(answers.is_clean, answers.is_marked, null_rate=upper_rate(worst, len(answers.is_clean)))
    delta_ps = np.array([(other.p_marked - other.p_clean).mean() for other in benign])
    conformal = conformal_p_value(effect.delta_p, delta_ps)
    control = contrast = None
    if answers.p_control is not None:
        control = paired_effect(answers.p_clean, answers.p_control, tau=thresholds.tau)
        contrast = paired_effect(answers.p_control, answers.p_marked, tau=thresholds.tau)
    decision = decide(effect, labels, conformal, float(delta_ps.max()), control, contrast, thresholds)
    return AuditResult(name, effect, labels, *conformal, control, contrast, decision, answers)
