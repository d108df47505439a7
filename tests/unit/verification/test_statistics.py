import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medmark.components.errors import MedmarkError
from medmark.components.verification.statistics import (
    conformal_p_value,
    label_only,
    paired_effect,
    upper_rate,
)
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint


def scores(n=60, lift=0.4, seed=0):
    rng = np.random.default_rng(seed)
    clean = rng.uniform(0, 0.4, n)
    return clean, np.clip(clean + rng.normal(lift, 0.1, n), 0, 1)


@pytest.mark.parametrize("tau", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_effect_equals_scipy(tau, seed):
    clean, marked = scores(seed=seed)
    effect = paired_effect(clean, marked, tau=tau)
    t = stats.ttest_rel(marked, clean + tau, alternative="greater")
    assert effect.t_statistic == pytest.approx(t.statistic)
    assert effect.t_p_value == pytest.approx(t.pvalue)
    w = stats.wilcoxon(marked - clean - tau, alternative="greater", method="approx", correction=True)
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


@pytest.mark.parametrize(("lift", "significant"), [(0.3, True), (0.2, False), (0.1, False), (0.0, False)])
def test_constant_differences_are_decided_by_their_size(lift, significant):
    effect = paired_effect(np.full(20, 0.25), np.full(20, 0.25 + lift), tau=0.2)
    assert (effect.t_p_value < 0.01) == significant
    assert np.isfinite(effect.wilcoxon_p_value)


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
    """95 flips of 100 are overwhelming evidence (METHOD: the published label-only test gives 0.66)."""
    marked = np.ones(100, bool)
    marked[:5] = False
    assert label_only(np.zeros(100, bool), marked, null_rate=0.1).p_value < 1e-20


def test_no_flip_at_all():
    assert label_only(np.zeros(20, bool), np.zeros(20, bool), null_rate=0.05).p_value == 1.0


@pytest.mark.parametrize(("k", "n"), [(0, 50), (3, 50), (49, 50), (50, 50)])
def test_upper_rate_equals_statsmodels(k, n):
    assert upper_rate(k, n, 0.99) == pytest.approx(proportion_confint(k, n, alpha=0.02, method="beta")[1])


def test_conformal_known_answers():
    innocent = np.arange(19) / 100
    assert conformal_p_value(0.9, innocent) == (pytest.approx(0.05), pytest.approx(0.05))
    assert conformal_p_value(-1.0, innocent)[0] == pytest.approx(1.0)
    assert conformal_p_value(0.18, innocent)[0] == pytest.approx(0.1)  # a tie counts against accusing


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30), st.floats(-1, 1))
def test_conformal_is_a_rank(innocent, suspect):
    p, resolution = conformal_p_value(suspect, np.array(innocent))
    assert resolution <= p <= 1
    assert round(p / resolution) == 1 + sum(value >= suspect for value in innocent)
