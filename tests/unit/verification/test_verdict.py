from dataclasses import replace

import numpy as np
import pytest
import torch
from medmark.components.errors import MedmarkError
from medmark.components.verification.audit import QuerySet, ask, interrogate, judge
from medmark.components.verification.power import NULLS, simulate_answers, simulate_audits
from medmark.components.verification.processing import jpeg, shrink
from medmark.components.verification.scenarios import verify
from medmark.components.verification.verdict import Thresholds
from scipy import stats


@pytest.fixture
def panel(rng):
    difficulty = rng.normal(-3, 1, 80)
    return difficulty, [simulate_answers(rng, difficulty, 0.0, 0.0, 0.0) for _ in range(20)]


def decide(rng, panel, lift=0.9, control=0.0, thresholds=None, innocents=20):
    difficulty, answers = panel
    suspect = simulate_answers(rng, difficulty, lift, 0.0, control)
    return judge("s", suspect, answers[:innocents], thresholds or Thresholds()).decision


def test_a_thief_is_owned(rng, panel):
    decision = decide(rng, panel)
    assert decision.verdict == "owned"
    assert len(decision.passed) == 5


@pytest.mark.parametrize(
    ("options", "verdict", "why"),
    [
        ({"lift": 0.0}, "not_owned", "t-test"),
        ({"lift": 0.15}, "not_owned", "t-test"),
        ({"control": 0.9}, "not_owned", "control mark"),
        ({"innocents": 18}, "inconclusive", "18 innocent models, 19 are needed"),
        ({"thresholds": Thresholds(min_queries=100)}, "inconclusive", "80 queries"),
    ],
)
def test_every_missing_proof_is_named(rng, panel, options, verdict, why):
    decision = decide(rng, panel, **options)
    assert decision.verdict == verdict
    assert any(why in sentence for sentence in decision.failed + decision.missing)


def test_without_a_control_nobody_is_accused(rng, panel):
    difficulty, answers = panel
    suspect = replace(simulate_answers(rng, difficulty, 0.9, 0.0, 0.0), p_control=None)
    assert judge("s", suspect, answers, Thresholds()).decision.verdict == "inconclusive"


def test_innocent_models_that_react_protect_the_suspect(rng):
    """If the mark is an adversarial example, the panel reacts too, and the rank says so."""
    difficulty = rng.normal(-3, 1, 80)
    panel = [simulate_answers(rng, difficulty, 0.9, 0.0, 0.0) for _ in range(20)]
    assert decide(rng, (difficulty, panel), lift=0.85).verdict == "not_owned"


def test_without_innocent_models_there_is_no_verdict(rng, panel):
    with pytest.raises(MedmarkError, match="no innocent model"):
        judge("s", panel[1][0], [], Thresholds())


@pytest.mark.parametrize("null", NULLS)
def test_false_accusations_stay_below_alpha(null):
    audits = 150
    owned = simulate_audits(audits, suspect_lift=None, null=null, seed=3)["owned"]
    # fails only if the count would be a 1-in-1000 surprise at a true rate of alpha
    assert owned * audits <= stats.binom.ppf(0.999, audits, Thresholds().alpha)


def test_power_grows_with_the_effect_and_is_high_at_the_target():
    rates = [simulate_audits(60, suspect_lift=lift, null="no reaction", seed=4)["owned"] for lift in (0.2, 0.4, 0.7)]
    assert rates == sorted(rates)
    assert rates[0] <= 0.1
    assert rates[2] >= 0.95


# a suspect that answers by the mean brightness of the image; the mark makes images brighter
def bright(images: torch.Tensor) -> np.ndarray:
    p = images.mean(dim=(1, 2, 3)).numpy().astype(float)
    return np.stack([p, 1 - p], axis=1)


def blind(images: torch.Tensor) -> np.ndarray:
    return np.tile([0.1, 0.9], (len(images), 1))


@pytest.fixture
def queries():
    clean = torch.rand(40, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.2
    return QuerySet(clean, clean * 0 + 0.95, clean.clone(), [f"q{i}" for i in range(40)], 0)


def test_scenarios(queries):
    innocents = {f"i{n}": blind for n in range(20)}
    report, scores = verify({"v": bright}, innocents, queries, Thresholds())
    assert report["verdict"] == "owned"
    assert report["malicious"]["wsr"] == 1.0
    assert report["malicious"]["delta_p"] == pytest.approx(0.85, abs=0.02)
    assert report["independent_models"] | {"models": None} == {
        "count": 20,
        "accused": 0,
        "max_delta_p": 0.0,
        "models": None,
    }
    assert report["independent_trigger"]["accused"] == 0
    assert len(scores) == 40 * 2 * (1 + 20 + 1)
    half = [r for r in report["robustness"] if r["processing"] == "resize" and r["strength"] == 0.5]
    assert {r["role"] for r in half} == {"victim", "innocent"}


def test_an_accused_innocent_spoils_the_verdict(queries):
    innocents = {f"i{n}": blind for n in range(25)} | {"odd": bright}
    report, _ = verify({"v": bright}, innocents, queries, Thresholds(conformal_alpha=0.2))
    assert report["independent_models"]["accused"] == 1
    assert report["verdict"] == "inconclusive"
    assert any("odd: innocent model accused" in reason for reason in report["reasons"])


def test_a_mark_that_does_nothing(queries):
    report, _ = verify({"v": blind}, {f"i{n}": blind for n in range(20)}, queries, Thresholds())
    assert report["verdict"] == "not_owned"


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: np.full((len(x), 2), np.nan),
        lambda x: np.full((len(x), 2), 0.7),
        lambda x: np.tile([-0.5, 1.5], (len(x), 1)),
        lambda x: np.zeros((len(x) - 1, 2)),
        lambda x: np.zeros(len(x)),
        lambda x: np.ones((len(x), 1)),
    ],
)
def test_answers_that_are_no_probabilities_are_refused(queries, answer):
    with pytest.raises(MedmarkError, match="suspect"):
        ask(answer, queries.clean, 1)


def test_label_flips_are_counted(queries):
    answers = interrogate(bright, queries)
    assert answers.is_marked.all() and not answers.is_clean.any()


def test_processing_keeps_shape_and_range(queries):
    for processed in (shrink(queries.clean, 0.5), jpeg(queries.clean, 75)):
        assert processed.shape == queries.clean.shape
        assert 0 <= float(processed.min()) and float(processed.max()) <= 1
    torch.testing.assert_close(shrink(queries.clean, 1.0), queries.clean)
    assert float((jpeg(queries.clean, 95) - queries.clean).abs().mean()) < 0.03
