"""Compute the tests behind a verdict: t, signed-rank, bound, label-only, and the conformal rank.

All of them compare the marked image with the *same* image without the mark, so whatever a suspect thinks of an image
by itself cancels. Images are not independent evidence about a model: a small p-value here says that the effect on
these images is no accident, not that the model saw the data. That is what :func:`conformal_p_value`, the control
generator and the prior commitment are for; see :mod:`medmark.components.verification.verdict`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from medmark.components.base.errors import MedmarkError
from scipy import special, stats

MIN_PAIRS = 10  # ours: below this no test has any power at alpha 0.01 against tau 0.2
NOISE = 1e-9  # differences this close are rounding, not evidence
BETS = np.linspace(0.05, 0.95, 10)  # ours: shares of the largest bet that cannot lose more than all; arbitrary grid


@dataclass(frozen=True)
class Effect:
    """How much the mark moves the probability of the target class.

    Attributes:
        n: pairs.
        delta_p: mean of P_t(marked) - P_t(clean), in [-1, 1].
        delta_p_ci95: bootstrap percentile interval of ``delta_p``, over images.
        t_statistic: of the one-sided paired t-test; infinite if all differences are equal.
        t_p_value: of H0 "mean difference <= tau"; ``bound_p_value`` if all differences are equal.
        wilcoxon_p_value: one-sided signed-rank test of the differences minus tau.
        bound_p_value: of the same H0 as the t-test, by :func:`bounded_mean_p_value`.
    """

    n: int
    delta_p: float
    delta_p_ci95: tuple[float, float]
    t_statistic: float
    t_p_value: float
    wilcoxon_p_value: float
    bound_p_value: float


@dataclass(frozen=True)
class LabelOnly:
    """What can be said when the suspect gives labels only.

    Attributes:
        n: images.
        wsr: share of marked images that are classified as the target.
        clean_rate: share of the clean images that are.
        flips_to: images that the mark turns into the target.
        flips_from: images that the mark turns away from it.
        mcnemar_p_value: exact, one-sided: more flips to the target than away from it.
        binomial_p_value: exact: more flips to the target than the null rate explains.
        p_value: the larger of the two.
    """

    n: int
    wsr: float
    clean_rate: float
    flips_to: int
    flips_from: int
    mcnemar_p_value: float
    binomial_p_value: float
    p_value: float


class Rank(NamedTuple):
    """Rank of a suspect among N benign models.

    Attributes:
        p_value: (1 + number of benign models that are at least as suspicious) / (N + 1).
        resolution: 1 / (N + 1); no smaller p-value can come out.
    """

    p_value: float
    resolution: float


def probabilities(values: np.ndarray, what: str) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all() or (values < 0).any() or (values > 1).any():
        raise MedmarkError(
            f"{what} are not probabilities: one finite number in [0, 1] an image is needed; check the suspect"
        )
    return values


def paired_effect(
    p_clean: np.ndarray, p_marked: np.ndarray, *, tau: float = 0.2, bootstrap: int = 2000, seed: int = 0
) -> Effect:
    """Tests whether the mark raises P_t by more than ``tau``.

    Args:
        p_clean: (N,) probability of the target for each clean image.
        p_marked: (N,) the same for the marked ones, in the same order.
        tau: delta-P that a benign model may show; 0.2 follows published dataset-verification tests.
        bootstrap: resamples for the interval. Arbitrary.
        seed: of the resampling.

    Raises:
        MedmarkError: fewer than 10 pairs, unequal lengths, values that are not probabilities, or tau outside [0, 1).
    """
    if not 0 <= tau < 1:
        raise MedmarkError(f"tau {tau} outside [0, 1); give the delta-P that a benign model may show")
    p_clean, p_marked = probabilities(p_clean, "clean scores"), probabilities(p_marked, "marked scores")
    if len(p_clean) != len(p_marked) or len(p_clean) < MIN_PAIRS:
        raise MedmarkError(
            f"{len(p_clean)} clean and {len(p_marked)} marked scores; at least {MIN_PAIRS} pairs are needed: test images"
            " of other classes than the target, each of another patient; start again with more images"
        )
    difference = p_marked - p_clean
    n, mean, spread = len(difference), float(difference.mean()), float(difference.std(ddof=1))
    bound = bounded_mean_p_value(difference, tau)
    shifted = np.where(np.abs(difference - tau) < NOISE, 0.0, difference - tau)
    if spread < NOISE:
        # the t statistic is undefined, and rounding alone would decide: only the bound still means something
        t, t_p_value = float(np.sign(shifted.mean()) * np.inf) if shifted.any() else 0.0, bound
    else:
        t = float((mean - tau) / (spread / np.sqrt(n)))
        t_p_value = float(stats.t.sf(t, n - 1))
    wilcoxon = 1.0
    if shifted.any():
        wilcoxon = float(stats.wilcoxon(shifted, alternative="greater", method="asymptotic", correction=True).pvalue)
    rng = np.random.default_rng(seed)
    means = difference[rng.integers(0, n, size=(bootstrap, n))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Effect(n, mean, (float(low), float(high)), t, t_p_value, wilcoxon, bound)


def bounded_mean_p_value(difference: np.ndarray, tau: float) -> float:
    """Returns a p-value of H0 "mean difference <= tau" that holds for differences of any shape.

    A t-test is too sure of itself when a few images move far down and all others a little up: those few may be missing
    from the sample (benchmarks/results/verification_error_rates.json). This one only uses that a difference lies in
    [-1, 1]: staking a share b / (1 + tau) of a fortune on each image multiplies it by 1 + b (d - tau) / (1 + tau), which
    under H0 does not grow in expectation, so the mean fortune over a grid of b exceeds 1 / p with chance p at most
    (Markov; the betting idea is Waudby-Smith and Ramdas 2024, the fixed grid is ours).

    Args:
        difference: (N,) independent, in [-1, 1].
        tau: in [0, 1).
    """
    log_fortunes = np.log1p(BETS[:, None] * (difference - tau) / (1 + tau)).sum(axis=1)
    return float(np.exp(min(0.0, np.log(len(BETS)) - special.logsumexp(log_fortunes))))


def label_only(clean_is_target: np.ndarray, marked_is_target: np.ndarray, *, null_rate: float) -> LabelOnly:
    """Tests flips to the target class, for a suspect that answers with labels only.

    Args:
        clean_is_target: (N,) bool, the clean image is classified as the target.
        marked_is_target: (N,) bool, the marked one is.
        null_rate: chance that a benign model flips an image to the target; take :func:`upper_rate` of the benign models.

    Raises:
        MedmarkError: fewer than 10 images, unequal lengths, or a rate outside [0, 1].
    """
    clean, marked = np.asarray(clean_is_target, dtype=bool), np.asarray(marked_is_target, dtype=bool)
    if clean.shape != marked.shape or clean.ndim != 1 or len(clean) < MIN_PAIRS:
        raise MedmarkError(
            f"labels of {clean.size} clean and {marked.size} marked images; {MIN_PAIRS} pairs are needed"
        )
    if not 0 <= null_rate <= 1:
        raise MedmarkError(f"null rate {null_rate} outside [0, 1]; measure it on the benign models")
    to, away = int((marked & ~clean).sum()), int((clean & ~marked).sum())
    mcnemar = float(stats.binomtest(to, to + away, 0.5, alternative="greater").pvalue) if to + away else 1.0
    binomial = float(stats.binomtest(to, len(clean), null_rate, alternative="greater").pvalue)
    return LabelOnly(
        len(clean), float(marked.mean()), float(clean.mean()), to, away, mcnemar, binomial, max(mcnemar, binomial)
    )


def upper_rate(successes: int, trials: int, confidence: float = 0.99) -> float:
    """Returns the upper Clopper-Pearson bound on a rate; 1 - confidence is the chance that the true rate is higher."""
    if trials < 1 or not 0 <= successes <= trials:
        raise MedmarkError(f"{successes} of {trials} is no rate; measure it on at least one image")
    return 1.0 if successes == trials else float(stats.beta.ppf(confidence, successes + 1, trials - successes))


def conformal_p_value(suspect: float, benign: np.ndarray) -> Rank:
    """Ranks a suspect's statistic among benign models.

    If the suspect is exchangeable with the benign ones, P(p <= alpha) <= alpha for every alpha (Vovk et al. 2005).

    Args:
        suspect: its statistic; larger is more suspicious.
        benign: (N,) the benign models' statistics.

    Returns:
        p-value and resolution. Ties, up to rounding, count against accusing.

    Raises:
        MedmarkError: a statistic is not finite, or there is no benign model.
    """
    benign = np.asarray(benign, dtype=np.float64)
    if benign.ndim != 1 or not len(benign):
        raise MedmarkError("no benign model to rank the suspect among; train at least one without the mark")
    if not np.isfinite(suspect) or not np.isfinite(benign).all():
        raise MedmarkError("a statistic is not finite; check the suspect's answers")
    at_least = int((benign >= suspect - NOISE).sum())
    return Rank((1 + at_least) / (len(benign) + 1), 1 / (len(benign) + 1))
