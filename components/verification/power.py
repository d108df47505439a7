"""Simulate how often the verdict errs.

A simulated audit draws the answers of benign models and of one suspect, and runs the whole verdict on them. Images
differ in how they react, models differ in how much, and the benign models answer to the same images, as in an audit.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from medmark.components.evidence.answers import Answers
from medmark.components.generator.key import KEYS
from medmark.components.verification.judgement import judge
from medmark.components.verification.key_test import KeyTest
from medmark.components.verification.statistics import paired_effect
from medmark.components.verification.verdict import Thresholds

# what a suspect says of waves is not simulated: all audits are taken for those of suspects whose answers rank the key first
KNOWN = KeyTest(1 / KEYS, 1, KEYS)
STEP = 0.9  # a delta-P of 0.6 is two thirds of the images moved by this much


@dataclass(frozen=True)
class Null:
    """How benign models behave.

    Attributes:
        delta_p: mean delta-P of P(target) over benign models.
        spread: standard deviation of it between models.
        flips: share of images, clean or marked, whose answer is replaced by a random one.
        heavy: models' delta-Ps follow a t distribution with two degrees of freedom instead of the normal one.
        outsider: delta-P of a benign suspect that is *not* like the benign models (other data, other training); the rank
            among these does not protect it. None: the suspect is drawn like them.
        control: the outsider's delta-P under the control mark.
        skewed: nine in ten images move a little up, one far down; the mean is ``outsider``.
    """

    delta_p: float = 0.0
    spread: float = 0.01
    flips: float = 0.0
    heavy: bool = False
    outsider: float | None = None
    control: float = 0.0
    skewed: bool = False


NULLS = {
    "no reaction": Null(),
    "mild transferable reaction": Null(delta_p=0.10, spread=0.05),
    "reaction close to tau": Null(delta_p=0.18, spread=0.06),
    "noisy labels": Null(flips=0.08),
    "models that differ wildly": Null(delta_p=0.10, spread=0.15, heavy=True),
    "outsider close to tau": Null(outsider=0.2),
    "outsider at tau, skewed": Null(outsider=0.2, skewed=True),
    "outsider set off by any mark": Null(outsider=0.5, control=0.5),
    "outsider set off by any mark, weakly": Null(outsider=0.3, control=0.3),
}


def simulate_answers(
    rng: np.random.Generator, difficulty: np.ndarray, delta_p: float, flips: float, control_delta_p: float
) -> Answers:
    """Draws the answers of one model.

    Args:
        rng: randomness.
        difficulty: (N,) logit of P(target) of each clean image, shared by all models.
        delta_p: mean change of P(target) that the mark causes; images differ around it.
        flips: share of images, clean or marked, whose answer is replaced by a random one.
        control_delta_p: the same for the control mark.
    """
    n = len(difficulty)
    p_clean = 1 / (1 + np.exp(-(difficulty + rng.normal(0, 0.7, n))))

    def moved(by: float) -> np.ndarray:
        reacts = rng.random(n) < min(1.0, abs(by) / STEP)
        return np.clip(p_clean + reacts * np.sign(by) * STEP + rng.normal(0, 0.02, n), 0, 1)

    p_marked, p_control = moved(delta_p), moved(control_delta_p)
    for p in (p_clean, p_marked, p_control):
        random = rng.random(n) < flips
        p[random] = rng.random(random.sum())
    return Answers(p_clean, p_marked, p_control, p_clean > 0.5, p_marked > 0.5)


def skewed_answers(rng: np.random.Generator, n: int, delta_p: float) -> Answers:
    """Draws the answers of a model with this mean delta-P: one image in ten falls by 0.9, the others rise a little."""
    falls = rng.random(n) < 0.1
    p_clean = np.where(falls, 0.95, 0.35)
    p_marked = np.clip(p_clean + np.where(falls, -0.9, (delta_p + 0.09) / 0.9) + rng.normal(0, 0.01, n), 0, 1)
    return Answers(p_clean, p_marked, p_clean.copy(), p_clean > 0.5, p_marked > 0.5)


def simulate_audits(
    audits: int, *, suspect_delta_p: float | None, null: str, queries: int = 100, benign_models: int = 20, seed: int = 0
) -> dict:
    """Counts the verdicts of simulated audits.

    Args:
        audits: how many.
        suspect_delta_p: mean delta-P of the suspect; None draws a benign suspect.
        null: name in :data:`NULLS`: how benign models behave.
        queries: images a suspect is asked about.
        benign_models: to compare it with.
        seed: of everything.

    Returns:
        Shares of ``owned``, ``not_owned`` and ``inconclusive``; the suspects' mean ``delta_p``, which is smaller than
        ``suspect_delta_p`` because probabilities end at 1; and ``acquitted_by_one``: for each proof, the share of audits
        where it was the only one to fail.
    """
    rng = np.random.default_rng(seed)
    shape = NULLS[null]
    sums = dict.fromkeys(("owned", "not_owned", "inconclusive", "delta_p"), 0.0)
    alone: Counter[str] = Counter()

    def drawn_delta_p() -> float:
        return shape.delta_p + shape.spread * (rng.standard_t(2) if shape.heavy else rng.normal())

    for _ in range(audits):
        difficulty = rng.normal(-3, 1.5, queries)
        benign = [simulate_answers(rng, difficulty, drawn_delta_p(), shape.flips, 0.0) for _ in range(benign_models)]
        if suspect_delta_p is not None:
            suspect = simulate_answers(rng, difficulty, suspect_delta_p, shape.flips, 0.0)
        elif shape.outsider is not None and shape.skewed:
            suspect = skewed_answers(rng, queries, shape.outsider)
        elif shape.outsider is not None:
            suspect = simulate_answers(rng, difficulty, shape.outsider, shape.flips, shape.control)
        else:
            suspect = simulate_answers(rng, difficulty, drawn_delta_p(), shape.flips, 0.0)
        result = judge("suspect", suspect, benign, Thresholds(), KNOWN)
        sums[result.decision.verdict] += 1
        sums["delta_p"] += result.effect.delta_p
        if len(result.decision.failed) == 1:
            alone[next(proof.name for proof in result.decision.proofs if proof.state == "fails")] += 1
    rates = {name: total / audits for name, total in sums.items()}
    return rates | {"acquitted_by_one": {proof: count / audits for proof, count in sorted(alone.items())}}


def simulate_effect_tests(
    repeats: int, *, shape: str, queries: int, alpha: float = 0.01, tau: float = 0.2, seed: int = 0
) -> dict[str, float]:
    """Counts how often each effect test alone rejects when the mean delta-P is exactly tau, where alpha of the cases are allowed.

    Args:
        repeats: how many sets of images.
        shape: of the differences: ``normal``, ``few images`` (most do not move, some by 0.9) or ``skewed``.
        queries: images.
        alpha: level of the tests.
        tau: delta-P of H0.
        seed: of everything.

    Returns:
        Share of rejections of ``t``, ``wilcoxon`` and ``bound``.
    """
    rng = np.random.default_rng(seed)
    rejected = np.zeros(3)
    for _ in range(repeats):
        if shape == "skewed":
            answers = skewed_answers(rng, queries, tau)
            p_clean, p_marked = answers.p_clean, answers.p_marked
        elif shape == "few images":
            p_clean = rng.uniform(0, 0.1, queries)
            p_marked = p_clean + STEP * (rng.random(queries) < tau / STEP)
        else:
            p_clean = np.full(queries, 0.4)
            p_marked = np.clip(p_clean + rng.normal(tau, 0.1, queries), 0, 1)
        effect = paired_effect(p_clean, p_marked, tau=tau, bootstrap=1)
        rejected += np.array([effect.t_p_value, effect.wilcoxon_p_value, effect.bound_p_value]) < alpha
    return dict(zip(("t", "wilcoxon", "bound"), (rejected / repeats).tolist(), strict=True))
