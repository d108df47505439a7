"""From numbers to a verdict: every proof must hold, and what is missing is said."""

from __future__ import annotations

from dataclasses import dataclass, field

from medmark.components.base.errors import MedmarkError
from medmark.components.verification.statistics import MIN_PAIRS, Effect, LabelOnly


@dataclass(frozen=True)
class Thresholds:
    """What was fixed before any suspect was asked.

    Attributes:
        alpha: level of the effect tests (t, signed-rank, bound, label-only); METHOD.
        tau: probability lift that a benign model may show; METHOD.
        conformal_alpha: level of the rank among benign models; 0.05 needs at least 19 of them.
        min_queries: fewer queries leave the verdict open; ours. At 30 an adversary with delta-P 0.66 is recognised in 94 % of
            cases and one with 0.47 in 20 %; 100 queries recognise the latter in 99 %
            (measured: benchmarks/results/verification_error_rates.json).

    Raises:
        MedmarkError: a level outside (0, 0.5), tau outside [0, 1), or fewer queries than any test can use.
    """

    alpha: float = 0.01
    tau: float = 0.2
    conformal_alpha: float = 0.05
    min_queries: int = 30

    def __post_init__(self) -> None:
        levels = (self.alpha, self.conformal_alpha)
        if not all(0 < level < 0.5 for level in levels) or not 0 <= self.tau < 1 or self.min_queries < MIN_PAIRS:
            raise MedmarkError(
                f"thresholds {vars(self)} would not protect the benign; alpha and conformal_alpha must lie in (0, 0.5),"
                f" tau in [0, 1), min_queries at {MIN_PAIRS} or more"
            )


@dataclass(frozen=True)
class Decision:
    """``owned``, ``not_owned`` or ``inconclusive``, with one sentence for each proof.

    Attributes:
        verdict: the word.
        passed: proofs that hold.
        failed: proofs that do not hold.
        missing: proofs that could not be had; without them the verdict is at best ``inconclusive``.
    """

    verdict: str
    passed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def decide(
    effect: Effect,
    labels: LabelOnly,
    conformal: tuple[float, float],
    worst_benign: float,
    control: Effect | None,
    contrast: Effect | None,
    thresholds: Thresholds,
) -> Decision:
    """Weighs the proofs.

    ``owned`` only if all hold. ``not_owned`` as soon as one fails. ``inconclusive`` if none fails but one is missing:
    too few queries, too few benign models for the level asked, benign models that the mark itself sets off, or no
    control generator.

    Args:
        effect: of the release's mark.
        labels: the same by labels only.
        conformal: p-value and resolution among the benign models.
        worst_benign: largest delta-P among the benign models.
        control: effect of another generator's marks on the same images, or None.
        contrast: effect of the release's mark beyond that of the other generator's, or None.
        thresholds: fixed beforehand.
    """
    passed, failed, missing = [], [], []

    def proof(holds: bool, sentence: str) -> None:
        (passed if holds else failed).append(sentence)

    if effect.n < thresholds.min_queries:
        missing.append(f"{effect.n} queries, {thresholds.min_queries} were asked for")
    alpha, tau = thresholds.alpha, thresholds.tau
    proof(effect.t_p_value < alpha, f"t-test: lift beyond {tau:g}, p = {effect.t_p_value:.2g} (needs < {alpha:g})")
    proof(effect.wilcoxon_p_value < alpha, f"signed-rank test: p = {effect.wilcoxon_p_value:.2g} (needs < {alpha:g})")
    proof(effect.bound_p_value < alpha, f"bound for any shape: p = {effect.bound_p_value:.2g} (needs < {alpha:g})")
    proof(labels.p_value < alpha, f"label-only test: p = {labels.p_value:.2g} (needs < {alpha:g})")
    p_value, resolution = conformal
    level = thresholds.conformal_alpha
    if resolution > level:
        missing.append(
            f"{round(1 / resolution) - 1} benign models, {round(1 / level) - 1} are needed for level {level:g}"
        )
    if worst_benign > tau:
        # tau is what a benign model may show; with a mark that moves one further, the effect tests prove nothing
        missing.append(
            f"a benign model shows a delta-P of {worst_benign:.2f}, beyond {tau:g}: this mark is no evidence"
        )
    # with too few benign models the suspect must still stand above every one of them
    proof(p_value <= max(level, resolution), f"rank among benign models: p = {p_value:.2g} (needs <= {level:g})")
    if control is None or contrast is None:
        missing.append("no control generator was tried")
    else:
        proof(
            control.t_p_value >= alpha,
            f"control mark: lift {control.delta_p:.2f}, p = {control.t_p_value:.2g} (needs >= {alpha:g})",
        )
        # a control that stays just below significance clears nobody: the burden of proof is on the accuser
        p = max(contrast.t_p_value, contrast.bound_p_value)
        proof(p < alpha, f"mark beyond control mark: {contrast.delta_p:.2f}, p = {p:.2g} (needs < {alpha:g})")
    verdict = "not_owned" if failed else "inconclusive" if missing else "owned"
    return Decision(verdict, passed, failed, missing)
