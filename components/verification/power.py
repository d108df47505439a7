"""How often the verdict errs, by simulation.

A simulated audit draws the answers of innocent models and of one suspect, and runs the whole verdict on them. Images
differ in how they react, models differ in how much, and the innocent models answer to the same images, as in an audit.
"""

from __future__ import annotations

import numpy as np
from medmark.components.verification.audit import Answers, judge
from medmark.components.verification.verdict import Thresholds

# name: (mean lift of innocent models, spread of it between models, share of images that flip at random)
NULLS = {
    "no reaction": (0.0, 0.01, 0.0),
    "mild transferable reaction": (0.10, 0.05, 0.0),
    "reaction close to tau": (0.18, 0.06, 0.0),
    "noisy labels": (0.0, 0.01, 0.08),
}


def simulate_answers(
    rng: np.random.Generator, difficulty: np.ndarray, lift: float, flips: float, control_lift: float
) -> Answers:
    """Answers of one model.

    Args:
        rng: randomness.
        difficulty: (N,) logit of P(target) of each clean image, shared by all models.
        lift: mean change of P(target) that the mark causes; images differ around it.
        flips: share of images, clean or marked, whose answer is replaced by a random one.
        control_lift: the same for the control mark.
    """
    n = len(difficulty)
    p_clean = 1 / (1 + np.exp(-(difficulty + rng.normal(0, 0.7, n))))

    def moved(by: float) -> np.ndarray:
        reacts = rng.random(n) < min(1.0, abs(by) / 0.9)  # a lift of 0.6 is two thirds of the images moved by 0.9
        return np.clip(p_clean + reacts * np.sign(by) * 0.9 + rng.normal(0, 0.02, n), 0, 1)

    p_marked, p_control = moved(lift), moved(control_lift)
    for p in (p_clean, p_marked, p_control):
        random = rng.random(n) < flips
        p[random] = rng.random(random.sum())
    return Answers(p_clean, p_marked, p_control, p_clean > 0.5, p_marked > 0.5)


def simulate_audits(
    audits: int, *, suspect_lift: float | None, null: str, queries: int = 100, innocents: int = 20, seed: int = 0
) -> dict[str, float]:
    """Verdicts over simulated audits.

    Args:
        audits: how many.
        suspect_lift: mean lift of the suspect; None draws an innocent suspect, like one of the panel.
        null: name in :data:`NULLS`: how innocent models behave.
        queries: images a suspect is asked about.
        innocents: models of the panel.
        seed: of everything.

    Returns:
        Shares of ``owned``, ``not_owned`` and ``inconclusive``.
    """
    rng = np.random.default_rng(seed)
    mean, spread, flips = NULLS[null]
    counts = dict.fromkeys(("owned", "not_owned", "inconclusive"), 0)
    for _ in range(audits):
        difficulty = rng.normal(-3, 1.5, queries)
        panel = [simulate_answers(rng, difficulty, mean + rng.normal(0, spread), flips, 0.0) for _ in range(innocents)]
        lift = mean + rng.normal(0, spread) if suspect_lift is None else suspect_lift
        suspect = simulate_answers(rng, difficulty, lift, flips, 0.0)
        counts[judge("suspect", suspect, panel, Thresholds()).decision.verdict] += 1
    return {verdict: count / audits for verdict, count in counts.items()}
