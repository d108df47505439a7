from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from medmark.components.base.errors import MedmarkError
from medmark.components.evidence.answers import Answers
from medmark.components.verification.judgement import judge
from medmark.components.verification.key_test import KeyTest
from medmark.components.verification.power import simulate_answers, skewed_answers
from medmark.components.verification.sequential import first, join, log_wealth, rank_stopped, sequential_test
from medmark.components.verification.statistics import bounded_mean_p_value
from medmark.components.verification.verdict import GUILTY, Thresholds
from scipy import stats

QUERIES = 100


def answers(delta_p=0.9, control=0.0, seed=0, queries=QUERIES, flips=0.0):
    rng = np.random.default_rng(seed)
    return simulate_answers(rng, rng.normal(-3, 1.5, queries), delta_p, flips, control)


def constant(difference, queries=40):
    """Every image moves by the same; labels do not change."""
    p_clean = np.full(queries, max(0.0, -difference))
    return Answers(p_clean, p_clean + difference, p_clean.copy(), np.zeros(queries, bool), np.zeros(queries, bool))


def ask(given, null_rate=0.1, **thresholds):
    return sequential_test(given, null_rate=null_rate, thresholds=Thresholds(**thresholds))


@cache
def panel(models=20, delta_p=0.0):
    rng = np.random.default_rng(9)
    difficulty = rng.normal(-3, 1.5, QUERIES)
    return [simulate_answers(rng, difficulty, delta_p, 0.0, 0.0) for _ in range(models)]


def at_most(count, trials, alpha):
    """Fails for a rate of alpha once in ten thousand."""
    return count <= stats.binom.ppf(1 - 1e-4, trials, alpha)


# values with a given mean


def normal(rng, size, mean):
    return np.clip(rng.normal(mean, 0.1, size), -1, 1)


def few_images(rng, size, mean):
    return 0.9 * np.sign(mean) * (rng.random(size) < abs(mean) / 0.9)


def skewed_down(rng, size, mean):
    return np.where(rng.random(size) < 0.05, -1.0, (mean + 0.05) / 0.95)


def skewed_up(rng, size, mean):
    return np.where(rng.random(size) < 0.05, 1.0, (mean - 0.05) / 0.95)


def extremes(rng, size, mean):
    return np.where(rng.random(size) < (1 + mean) / 2, 1.0, -1.0)


def labels(rng, size, mean):
    return rng.choice([-1.0, 0.0, 1.0], size, p=[0.3 - mean / 2, 0.4, 0.3 + mean / 2])


@pytest.mark.parametrize("alpha", [0.01, 0.1])
@pytest.mark.parametrize("null", [0.2, -GUILTY])
@pytest.mark.parametrize("shape", [normal, few_images, skewed_down, skewed_up, extremes, labels])
def test_wealth_seldom_ever_reaches_one_over_alpha_at_the_edge(shape, null, alpha):
    values = shape(np.random.default_rng(1), (2000, 400), null)
    assert values.mean() == pytest.approx(null, abs=0.005)
    ever = int((log_wealth(values, null) >= -np.log(alpha)).any(axis=1).sum())
    assert at_most(ever, 2000, alpha)


@pytest.mark.parametrize("null", [0.2, -GUILTY])
@pytest.mark.parametrize("low", [-1.0, -0.5])
def test_wealth_does_not_grow_in_expectation(low, null):
    """Exactly, over all orders of 12 values that are low or 1; so it is no supermartingale by luck of the draw."""
    chance = (null - low) / (1 - low)
    paths = np.array(np.meshgrid(*[[low, 1.0]] * 12)).reshape(12, -1).T
    weights = np.where(paths == 1.0, chance, 1 - chance).prod(axis=1)
    expected = weights @ np.exp(log_wealth(paths, null))
    assert expected == pytest.approx(np.ones(12))


def test_wealth_of_a_suspect_that_changes_its_behaviour_stays_fair():
    """The more it has won so far, the wilder it answers; the mean stays tau."""
    rng = np.random.default_rng(2)
    values = np.empty((2000, 200))
    total = np.zeros(2000)
    for i in range(200):
        values[:, i] = np.where(total > 0, extremes(rng, 2000, 0.2), skewed_down(rng, 2000, 0.2))
        total += values[:, i] - 0.2
    ever = int((log_wealth(values, 0.2) >= -np.log(0.01)).any(axis=1).sum())
    assert at_most(ever, 2000, 0.01)


def test_wealth_known_answer():
    bets = np.linspace(0.05, 0.95, 10)
    one = 1 + bets * (0.7 - 0.2) / 1.2
    two = one * (1 + bets * (-0.4 - 0.2) / 1.2)
    assert np.exp(log_wealth(np.array([0.7, -0.4]), 0.2)) == pytest.approx([one.mean(), two.mean()])
    # the other way: "mean at least 0.4" loses when nothing moves
    assert np.exp(log_wealth(np.zeros(3), -0.4)) == pytest.approx(
        [np.mean((1 + bets * 0.4 / 0.6) ** n) for n in (1, 2, 3)]
    )


@pytest.mark.parametrize("delta_p", [0.0, 0.3, 0.9])
def test_wealth_is_the_bound_of_the_verdict(delta_p):
    difference = answers(delta_p).p_marked - answers(delta_p).p_clean
    for n in (10, 37, QUERIES):
        expected = min(1.0, np.exp(-log_wealth(difference[:n], 0.2)[-1]))
        assert bounded_mean_p_value(difference[:n], 0.2) == pytest.approx(expected)


def test_wealth_of_values_at_the_null_stays():
    assert log_wealth(np.full(50, 0.2), 0.2) == pytest.approx(np.zeros(50))


@pytest.mark.parametrize("values", [[0.1, np.nan], [1.1], [-1.1], [np.inf]])
def test_values_that_could_break_the_bank_are_refused(values):
    with pytest.raises(MedmarkError, match=r"outside \[-1, 1\]"):
        log_wealth(np.array(values), 0.2)


@pytest.mark.parametrize("null", [-1.0, 1.1, np.nan])
def test_a_null_out_of_range_is_refused(null):
    with pytest.raises(MedmarkError, match="null"):
        log_wealth(np.zeros(3), null)


def test_a_adversary_suffices_with_few_queries():
    result = ask(answers(0.9))
    assert result.state == "suffices"
    assert 13 <= result.queries <= 20
    assert set(result.path) == {"effect", "contrast", "labels", "against"}
    for name in ("effect", "contrast", "labels"):
        assert result.path[name][-1] >= 2
    assert result.path["against"][-1] < 0
    before = [result.path[name][-2] for name in ("effect", "contrast", "labels")]
    assert min(before) < 2  # one query fewer would not have done


def test_the_strongest_adversary_needs_thirteen_queries():
    sure = np.ones(40)
    adversary = Answers(sure * 0, sure, sure * 0, sure < 0, sure > 0)
    assert ask(adversary).queries == 13


def test_an_benign_suspect_is_let_go_soon():
    for seed in range(20):
        result = ask(answers(0.0, seed=seed))
        assert result.state == "against"
        assert result.queries <= 15
        assert result.path["against"][-1] >= 2
        assert result.queries == 10 or result.path["against"][-2] < 2


def test_power_and_errors_over_many_suspects():
    adversaries = [ask(answers(0.7, seed=seed)) for seed in range(200)]
    assert np.mean([result.state == "suffices" for result in adversaries]) >= 0.99
    assert np.median([result.queries for result in adversaries]) <= QUERIES / 3
    for make in (
        lambda rng: answers(0.2, seed=rng.integers(2**32)),
        lambda rng: skewed_answers(rng, QUERIES, 0.2),
        lambda rng: answers(0.6, control=0.6, seed=rng.integers(2**32)),
    ):
        rng = np.random.default_rng(3)
        accused = sum(ask(make(rng)).state == "suffices" for _ in range(1000))
        assert at_most(accused, 1000, 0.01)


def test_a_adversary_at_the_promised_strength_is_seldom_let_go():
    rng = np.random.default_rng(4)
    let_go = 0
    for _ in range(1000):
        moved = rng.random(300) < GUILTY
        adversary = Answers(np.zeros(300), moved.astype(float), np.zeros(300), np.zeros(300, bool), moved)
        let_go += (
            ask(adversary, null_rate=1.0).state == "against"
        )  # labels never suffice: the other side has all the time
    assert at_most(let_go, 1000, 0.01)


def test_nothing_is_decided_before_ten_queries():
    fallen = constant(-1.0)
    assert ask(fallen).queries == 10
    assert log_wealth(np.ones(6), -GUILTY)[-1] > np.log(100)  # though six would have been evidence enough
    assert ask(first(fallen, 9)).state == "running"


def test_no_answer_yet():
    result = ask(first(answers(), 0))
    assert (result.state, result.queries) == ("running", 0)
    assert all(len(path) == 0 for path in result.path.values())


@pytest.mark.parametrize("given", [answers(0.9), answers(0.0), answers(0.3, seed=1), answers(0.6, control=0.6)])
def test_chunks_do_not_matter(given):
    whole = ask(given)
    for size in (1, 7, QUERIES):
        chunks, asked = [], 0
        while asked < QUERIES:
            rest = replace(given, **{name: column[asked:] for name, column in vars(given).items()})
            chunks.append(first(rest, size))
            asked += size
            result = ask(join(chunks))
            if result.state != "running":
                break
            assert result.queries == min(asked, QUERIES)
        assert (result.state, result.queries) == (whole.state, whole.queries)
        for name, path in whole.path.items():
            assert len(path) == whole.queries
            np.testing.assert_array_equal(result.path[name], path)


def test_path_is_the_wealth():
    given = answers(0.3, seed=5)
    path = ask(given, null_rate=0.07).path
    n = len(path["effect"])
    for name, values, null in (
        ("effect", given.p_marked - given.p_clean, 0.2),
        ("contrast", given.p_marked - given.p_control, 0.2),
        ("labels", given.is_marked.astype(int) - given.is_clean.astype(int), 0.07),
        ("against", given.p_clean - given.p_marked, -GUILTY),
    ):
        np.testing.assert_allclose(path[name], log_wealth(values, null)[:n] / np.log(10), atol=1e-12)


def test_every_proof_is_required():
    adversary = answers(0.9)
    still = np.zeros(QUERIES, bool)
    assert ask(adversary).state == "suffices"
    assert ask(replace(adversary, is_marked=still, is_clean=still)).state == "running"
    assert ask(adversary, null_rate=1.0).state == "running"
    assert ask(replace(adversary, p_control=adversary.p_marked)).state == "running"
    assert ask(replace(adversary, p_control=None)).state == "suffices"
    assert "contrast" not in ask(replace(adversary, p_control=None)).path
    slow = ask(replace(adversary, p_control=np.clip(adversary.p_marked - 0.4, 0, 1)))
    assert slow.state == "suffices" and slow.queries > ask(adversary).queries


def test_flips_away_count_against():
    """As many away from the target as towards it: McNemar's test finds nothing, and nor may this."""
    adversary = answers(0.9)
    turn = np.arange(QUERIES) % 2 == 0
    assert ask(replace(adversary, is_clean=turn, is_marked=~turn), null_rate=0.0).state == "running"
    assert ask(replace(adversary, is_clean=turn, is_marked=~turn), null_rate=0.0).path["labels"].max() < 0.5


def test_labels_only():
    """One-hot answers: probabilities are labels."""
    rng = np.random.default_rng(6)
    for rate, state in ((0.9, "suffices"), (0.05, "against")):
        clean, marked = rng.random(QUERIES) < 0.03, rng.random(QUERIES) < rate
        hard = Answers(clean.astype(float), marked.astype(float), clean.astype(float), clean, marked)
        assert ask(hard).state == state
        assert ask(hard).queries <= 33


def test_stricter_thresholds_ask_more():
    used = [ask(answers(0.7), alpha=alpha).queries for alpha in (0.1, 0.01, 0.001)]
    assert used == sorted(set(used))
    assert ask(answers(0.7), tau=0.1).queries < ask(answers(0.7)).queries < ask(answers(0.7), tau=0.3).queries


def test_both_sides_may_hold_and_the_first_counts():
    """A lift between tau and guilty is neither: whoever waits sees evidence against both."""
    result = ask(constant(0.35, 200), null_rate=0.1)
    assert result.state == "against"
    assert result.path["effect"][-1] > 2  # the labels did not suffice


def test_a_tie_lets_go():
    """Labels that begin to flip late make the accusation complete before, with, or after the acquittal."""
    slow = constant(0.35, 200)
    let_go = ask(slow).queries
    seen = {}
    for start in range(let_go - 40, let_go):
        flips = np.arange(200) >= start
        complete = int(np.argmax(log_wealth(flips.astype(float), 0.1) >= np.log(100))) + 1
        seen[np.sign(complete - let_go)] = ask(replace(slow, is_marked=flips)).state
    assert seen == {-1: "suffices", 0: "against", 1: "against"}


def test_the_verdict_agrees_when_it_suffices():
    adversary = answers(0.9, seed=9)
    used = ask(adversary).queries
    result = judge(
        "adversary",
        first(adversary, used),
        [first(other, used) for other in panel()],
        Thresholds(min_queries=10),
        KeyTest(1 / 1800, 1, 1800),
    )
    assert result.decision.verdict == "owned"


def test_tau_above_guilty_is_refused():
    with pytest.raises(MedmarkError, match="nothing between benign and guilty"):
        ask(answers(), tau=GUILTY)


@pytest.mark.parametrize("rate", [-0.1, 1.1, np.nan])
def test_null_rate_is_checked(rate):
    with pytest.raises(MedmarkError, match="null rate"):
        ask(answers(), null_rate=rate)


@pytest.mark.parametrize("column", ["p_clean", "p_marked", "p_control"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.1, 1.1])
def test_what_is_no_probability_is_refused(column, bad):
    given = answers()
    getattr(given, column)[50] = bad  # after the decision too: such a suspect is not to be trusted
    with pytest.raises(MedmarkError, match="not probabilities"):
        ask(given)


@pytest.mark.parametrize("column", ["p_clean", "p_marked", "p_control", "is_clean", "is_marked"])
def test_unequal_lengths_are_refused(column):
    given = answers()
    setattr(given, column, getattr(given, column)[:-1])
    with pytest.raises(MedmarkError, match="different lengths"):
        ask(given)


@pytest.mark.parametrize("bad", [np.full(QUERIES, np.nan), np.ones(QUERIES), np.zeros((QUERIES, 1), bool)])
def test_labels_that_are_no_bool_are_refused(bad):
    with pytest.raises(MedmarkError, match="bool"):
        ask(replace(answers(), is_marked=bad))


def test_chunks_must_be_alike():
    with pytest.raises(MedmarkError, match="not all alike"):
        join([answers(), replace(answers(), p_control=None)])
    with pytest.raises(MedmarkError, match="0 chunks"):
        join([])
    assert join([replace(answers(), p_control=None)] * 2).p_control is None


def test_a_stopped_adversary_stands_above_all():
    adversary = answers(0.9, seed=9)
    stopped = first(adversary, ask(adversary).queries)
    assert rank_stopped(stopped, panel(), thresholds=Thresholds()) == (pytest.approx(1 / 21), pytest.approx(1 / 21))
    # what it would have answered later changes nothing
    assert rank_stopped(adversary, panel(), thresholds=Thresholds())[0] == pytest.approx(1 / 21)


def test_rank_of_stopped_procedures_is_exact_for_a_suspect_like_the_panel():
    """Also where most models decide at different times, and some for guilt."""
    rng = np.random.default_rng(7)
    thresholds, trials, low = Thresholds(alpha=0.1), 800, 0
    for _ in range(trials):
        difficulty = rng.normal(-3, 1.5, 60)
        models = [simulate_answers(rng, difficulty, rng.normal(0.25, 0.15), 0.0, 0.0) for _ in range(10)]
        stopped = first(models[0], ask(models[0], null_rate=0.05, alpha=0.1).queries)
        low += rank_stopped(stopped, models[1:], thresholds=thresholds)[0] <= 0.1
    assert stats.binomtest(low, trials, 0.1).pvalue > 1e-3


def test_an_equal_shares_its_rank():
    adversary = answers(0.9, seed=9)
    p_value, _ = rank_stopped(adversary, [*panel(19), adversary], thresholds=Thresholds())
    assert p_value == pytest.approx(2 / 21)


def test_rank_needs_a_suspect_that_was_not_stopped_at_will():
    undecided = answers(0.3, seed=1)
    assert ask(first(undecided, 12)).state == "running"
    with pytest.raises(MedmarkError, match="decided: False"):
        rank_stopped(first(undecided, 12), panel(), thresholds=Thresholds())
    with pytest.raises(MedmarkError, match="answered 100 queries"):
        rank_stopped(undecided, [first(other, 50) for other in panel()], thresholds=Thresholds())
    rank_stopped(first(undecided, 12), [first(other, 12) for other in panel()], thresholds=Thresholds())


def test_rank_needs_benign_models_that_answered_everything():
    with pytest.raises(MedmarkError, match="no benign model"):
        rank_stopped(answers(), [], thresholds=Thresholds())
    with pytest.raises(MedmarkError, match="ask all of them all queries"):
        rank_stopped(answers(), [*panel(2), first(panel()[2], 50)], thresholds=Thresholds())
    with pytest.raises(MedmarkError, match="without answers"):
        rank_stopped(first(answers(), 0), panel(), thresholds=Thresholds())
