from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medmark.components.base.errors import MedmarkError
from medmark.components.verification.statistics import (
    NOISE,
    bounded_mean_p_value,
    conformal_p_value,
    label_only,
    paired_effect,
    upper_rate,
)
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW


def scores(n=60, delta_p=0.4, seed=0):
    rng = np.random.default_rng(seed)
    clean = rng.uniform(0, 0.4, n)
    return clean, np.clip(clean + rng.normal(delta_p, 0.1, n), 0, 1)


@pytest.mark.parametrize("tau", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_effect_equals_scipy(tau, seed):
    clean, marked = scores(seed=seed)
    effect = paired_effect(clean, marked, tau=tau)
    t = stats.ttest_rel(marked, clean + tau, alternative="greater")
    assert effect.t_statistic == pytest.approx(t.statistic)
    assert effect.t_p_value == pytest.approx(t.pvalue)
    assert effect.t_p_value == pytest.approx(DescrStatsW(marked - clean).ttest_mean(tau, alternative="larger")[1])
    w = stats.wilcoxon(marked - clean - tau, alternative="greater", method="asymptotic", correction=True)
    assert effect.wilcoxon_p_value == pytest.approx(w.pvalue)
    assert effect.delta_p == pytest.approx((marked - clean).mean())
    interval = stats.bootstrap(((marked - clean),), np.mean, method="percentile", rng=1, n_resamples=4000)
    assert effect.delta_p_ci95 == pytest.approx(tuple(interval.confidence_interval), abs=0.006)


def test_effect_known_answer():
    # differences 1..5 tenths: t = (0.3 - 0.2) / (sd / sqrt 10), sd of (.1,.2,.3,.4,.5) twice
    clean = np.zeros(10)
    marked = np.array([0.1, 0.2, 0.3, 0.4, 0.5] * 2)
    effect = paired_effect(clean, marked, tau=0.2)
    assert effect.t_statistic == pytest.approx(0.1 / (np.sqrt(0.2 / 9) / np.sqrt(10)))


@pytest.mark.parametrize(("delta_p", "significant"), [(0.7, True), (0.2, False), (0.1, False), (0.0, False)])
def test_constant_differences_are_decided_by_their_size(delta_p, significant):
    """0.45 - 0.25 is a hair more than 0.2 in floating point: rounding must not be taken for 20 consistent images."""
    for clean in (0.25, 0.1, 0.3):
        effect = paired_effect(np.full(20, clean), np.full(20, clean + delta_p), tau=0.2)
        assert effect.t_p_value == effect.bound_p_value
        for p in (effect.t_p_value, effect.wilcoxon_p_value, effect.bound_p_value):
            assert (p < 0.01) == significant
        assert effect.delta_p_ci95 == pytest.approx((delta_p, delta_p))


def test_a_hair_above_tau_without_spread_is_not_proof():
    """A t-test would be certain: the differences agree to six digits."""
    clean = np.full(100, 0.3)
    marked = clean + 0.2001 + np.random.default_rng(0).normal(0, 1e-6, 100)
    effect = paired_effect(clean, marked, tau=0.2)
    assert effect.t_p_value < 1e-10
    assert effect.bound_p_value > 0.5


def test_bound_known_answer():
    # every image moves by 1: a share b of the largest bet wins 0.8 / 1.2 of itself each time
    bets = np.linspace(0.05, 0.95, 10)
    expected = 1 / np.mean((1 + bets * 0.8 / 1.2) ** 12)
    assert bounded_mean_p_value(np.ones(12), 0.2) == pytest.approx(expected)
    assert bounded_mean_p_value(-np.ones(12), 0.2) == 1.0


@pytest.mark.parametrize("low", [-1.0, -0.2, 0.1])
@pytest.mark.parametrize("n", [10, 15])
@pytest.mark.parametrize("tau", [0.0, 0.2, 0.6])
def test_bound_holds_exactly_by_enumeration(low, n, tau):
    """Differences are low or 1 with mean tau: P(p <= a) <= a for every a, summed over all outcomes."""
    if low > tau:
        low = tau / 2
    chance = (tau - low) / (1 - low)
    outcomes = [
        (
            bounded_mean_p_value(np.r_[np.ones(k), np.full(n - k, low)], tau),
            comb(n, k) * chance**k * (1 - chance) ** (n - k),
        )
        for k in range(n + 1)
    ]
    for level, _ in outcomes:
        if level < 1:
            assert sum(weight for p, weight in outcomes if p <= level) <= level + 1e-12


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=10, max_size=40), st.sampled_from([0.0, 0.2, 0.9])
)
def test_any_probabilities_give_valid_numbers(pairs, tau):
    clean, marked = np.array(pairs).T
    effect = paired_effect(clean, marked, tau=tau, bootstrap=200)
    for p in (effect.t_p_value, effect.wilcoxon_p_value, effect.bound_p_value):
        assert 0 <= p <= 1
    low, high = effect.delta_p_ci95
    assert low <= high
    if effect.delta_p <= tau:
        assert effect.t_p_value >= 0.5 and effect.bound_p_value > 0.05


@pytest.mark.parametrize("tau", [-0.1, 1.0, np.nan])
def test_tau_is_checked(tau):
    with pytest.raises(MedmarkError, match="tau"):
        paired_effect(*scores(), tau=tau)


def test_interval_is_the_same_every_time():
    assert paired_effect(*scores()) == paired_effect(*scores())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.1, 1.1])
def test_what_is_no_probability_is_refused(bad):
    clean, marked = scores()
    marked[3] = bad
    with pytest.raises(MedmarkError, match="not probabilities"):
        paired_effect(clean, marked)


def test_too_few_pairs_are_refused():
    with pytest.raises(MedmarkError, match="at least 10 pairs"):
        paired_effect(np.zeros(9), np.ones(9))
    with pytest.raises(MedmarkError, match="10 pairs"):
        label_only(np.zeros(9, bool), np.ones(9, bool), null_rate=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_label_only_equals_statsmodels(seed):
    rng = np.random.default_rng(seed)
    clean, marked = rng.random(80) < 0.1, rng.random(80) < 0.5
    result = label_only(clean, marked, null_rate=0.07)
    to, away = int((marked & ~clean).sum()), int((clean & ~marked).sum())
    table = [[0, to], [away, 0]]
    two_sided = mcnemar(table, exact=True).pvalue
    expected = stats.binom.sf(to - 1, to + away, 0.5)
    assert result.mcnemar_p_value == pytest.approx(expected)
    assert two_sided == pytest.approx(min(1, 2 * min(expected, stats.binom.cdf(to, to + away, 0.5))))
    assert result.binomial_p_value == pytest.approx(stats.binom.sf(to - 1, 80, 0.07))
    assert result.p_value == max(result.mcnemar_p_value, result.binomial_p_value)
    assert result.wsr == marked.mean()


def test_label_only_survives_misses_where_the_published_test_does_not():
    """95 flips of 100 are overwhelming evidence (the published label-only test gives 0.66)."""
    marked = np.ones(100, bool)
    marked[:5] = False
    assert label_only(np.zeros(100, bool), marked, null_rate=0.1).p_value < 1e-20


def test_no_flip_at_all():
    assert label_only(np.zeros(20, bool), np.zeros(20, bool), null_rate=0.05).p_value == 1.0


def test_a_mark_that_turns_every_image_for_an_benign_model_proves_nothing():
    assert label_only(np.zeros(20, bool), np.ones(20, bool), null_rate=upper_rate(20, 20)).p_value == 1.0


@pytest.mark.parametrize("rate", [-0.1, 1.1, np.nan])
def test_null_rate_is_checked(rate):
    with pytest.raises(MedmarkError, match="null rate"):
        label_only(np.zeros(20, bool), np.ones(20, bool), null_rate=rate)


@pytest.mark.parametrize(("k", "n"), [(0, 50), (3, 50), (49, 50), (50, 50)])
def test_upper_rate_equals_statsmodels(k, n):
    assert upper_rate(k, n, 0.99) == pytest.approx(proportion_confint(k, n, alpha=0.02, method="beta")[1])


def test_conformal_known_answers():
    benign = np.arange(19) / 100
    assert conformal_p_value(0.9, benign) == (pytest.approx(0.05), pytest.approx(0.05))
    assert conformal_p_value(-1.0, benign)[0] == pytest.approx(1.0)
    assert conformal_p_value(0.18, benign)[0] == pytest.approx(0.1)  # a tie counts against accusing


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30), st.floats(-1, 1))
def test_conformal_is_a_rank(benign, suspect):
    p, resolution = conformal_p_value(suspect, np.array(benign))
    assert resolution <= p <= 1
    assert round(p / resolution) == 1 + sum(value >= suspect - NOISE for value in benign)


def test_conformal_rate_is_exact_for_a_suspect_like_the_panel():
    rng = np.random.default_rng(0)
    first = [conformal_p_value(draw[0], draw[1:])[0] <= 0.05 for draw in rng.standard_t(2, (2000, 20))]
    assert stats.binomtest(sum(first), 2000, 0.05).pvalue > 0.001


def test_rounding_does_not_break_a_tie():
    assert conformal_p_value(0.1 + 0.2, np.full(19, 0.3))[0] == 1.0


@pytest.mark.parametrize(("suspect", "benign"), [(np.nan, [0.1]), (0.1, [np.nan]), (np.inf, [0.1]), (0.1, [])])
def test_conformal_refuses_what_has_no_rank(suspect, benign):
    with pytest.raises(MedmarkError):
        conformal_p_value(suspect, np.array(benign))
