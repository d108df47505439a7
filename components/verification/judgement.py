"""Judge a model on its answers to all queries: the tests, the rank among benign models, and the verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from medmark.components.base.errors import MedmarkError
from medmark.components.evidence.answers import Answers
from medmark.components.verification.exact_tests import KnownImages, joined
from medmark.components.verification.key_test import KeyTest
from medmark.components.verification.statistics import (
    Effect,
    LabelOnly,
    conformal_p_value,
    label_only,
    paired_effect,
    upper_rate,
)
from medmark.components.verification.verdict import Decision, Measured, Thresholds, decide


@dataclass
class Judgement:
    """All numbers about one model.

    Attributes:
        name: of the model.
        effect, labels: see :mod:`medmark.components.verification.statistics`.
        measured: what decides.
        images: what it knows of the published images; None: it was not asked about them.
        decision: every proof and the verdict.
    """

    name: str
    effect: Effect
    labels: LabelOnly
    measured: Measured
    images: KnownImages | None
    decision: Decision


def judge(
    name: str,
    answers: Answers,
    benign: list[Answers],
    thresholds: Thresholds,
    key: KeyTest | None = None,
    images: KnownImages | None = None,
) -> Judgement:
    """Tests one model's answers against those of benign models to the same images.

    Args:
        name: of the model.
        answers: its answers.
        benign: answers of models trained without the mark; the model must not be among them.
        thresholds: fixed beforehand.
        key: rank of the key by the model's answers; None: not asked for.
        images: whether it knows the published images; None: not asked about them.

    Raises:
        MedmarkError: there is no benign model, or too few images.
    """
    if not benign:
        raise MedmarkError(f"no benign model to compare {name} with; train at least one without the mark")
    effect = paired_effect(answers.p_clean, answers.p_marked, tau=thresholds.tau)
    # The benign models share the images, so their flips are not independent: the bound is taken on the worst of
    # them, which is wider than pooling would be.
    worst = max(other.flips for other in benign)
    labels = label_only(answers.is_clean, answers.is_marked, null_rate=upper_rate(worst, len(answers.is_clean)))
    delta_ps = np.array([other.delta_p for other in benign])
    rank = conformal_p_value(effect.delta_p, delta_ps)
    control = contrast = None
    if answers.p_control is not None:
        control = paired_effect(answers.p_clean, answers.p_control, tau=thresholds.tau)
        contrast = paired_effect(answers.p_control, answers.p_marked, tau=thresholds.tau)
    measured = Measured(
        queries=effect.n,
        t_p_value=effect.t_p_value,
        wilcoxon_p_value=effect.wilcoxon_p_value,
        bound_p_value=effect.bound_p_value,
        label_only_p_value=labels.p_value,
        conformal_p_value=rank.p_value,
        conformal_resolution=rank.resolution,
        worst_benign=float(delta_ps.max()),
        control_delta_p=control.delta_p if control else None,
        control_t_p_value=control.t_p_value if control else None,
        contrast_delta_p=contrast.delta_p if contrast else None,
        contrast_t_p_value=contrast.t_p_value if contrast else None,
        contrast_bound_p_value=contrast.bound_p_value if contrast else None,
        key_p_value=key.p_value if key else None,
        together_p_value=joined(key, images) if images else None,
    )
    return Judgement(name, effect, labels, measured, images, decide(measured, thresholds))


def leave_one_out(asked: dict[str, Answers], thresholds: Thresholds) -> list[Judgement]:
    """Judges each benign model as if it were a suspect, compared with all the others."""
    return [
        judge(name, answers, [other for n, other in asked.items() if n != name], thresholds)
        for name, answers in asked.items()
    ]


def summary(result: Judgement) -> dict[str, Any]:
    """Makes a model's entry in ``verdict.json``; :meth:`medmark.components.verification.verdict.Measured.of` reads it."""
    measured = asdict(result.measured)
    measured.pop("worst_benign")  # said once for all models
    return {
        "name": result.name,
        "verdict": result.decision.verdict,
        "wsr": result.labels.wsr,
        "clean_rate": result.labels.clean_rate,
        "delta_p": result.effect.delta_p,
        "delta_p_ci95": list(result.effect.delta_p_ci95),
        **measured,
        "images": asdict(result.images) if result.images else None,
        "passed": result.decision.passed,
        "failed": result.decision.failed,
        "missing": result.decision.missing,
        "not_needed": result.decision.not_needed,
    }
