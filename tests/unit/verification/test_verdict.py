import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.evidence.queries import QuerySet
from medmark.components.generator.key import draw_key, turned
from medmark.components.generator.marker import carrier
from medmark.components.verification.interrogation import ask, interrogate
from medmark.components.verification.jpeg_and_resize_curves import jpeg, shrink
from medmark.components.verification.judgement import judge
from medmark.components.verification.key_test import KeyTest
from medmark.components.verification.power import NULLS, simulate_answers, simulate_audits, simulate_effect_tests
from medmark.components.verification.scenarios import verify
from medmark.components.verification.verdict import Measured, Thresholds, release_proofs
from medmark.components.verification.verdict import decide as weigh
from scipy import stats


@pytest.fixture
def panel(rng):
    difficulty = rng.normal(-3, 1, 80)
    return difficulty, [simulate_answers(rng, difficulty, 0.0, 0.0, 0.0) for _ in range(20)]


def decide(rng, panel, delta_p=0.9, control=0.0, thresholds=None, benign_models=20):
    difficulty, answers = panel
    suspect = simulate_answers(rng, difficulty, delta_p, 0.0, control)
    key = KeyTest(1 / 1800, 1, 1800)
    return judge("s", suspect, answers[:benign_models], thresholds or Thresholds(), key).decision


def test_a_adversary_is_owned(rng, panel):
    decision = decide(rng, panel)
    assert decision.verdict == "owned"
    assert len(decision.passed) == 8
    assert not decision.failed and not decision.missing


@pytest.mark.parametrize(
    ("options", "verdict", "why"),
    [
        ({"delta_p": 0.0}, "not_owned", "t-test"),
        ({"delta_p": 0.15}, "not_owned", "t-test"),
        ({"control": 0.9}, "not_owned", "control mark: lift"),
        ({"delta_p": 0.5, "control": 0.3}, "not_owned", "mark beyond control mark"),
        ({"benign_models": 18}, "inconclusive", "18 benign models, 19 are needed"),
        ({"thresholds": Thresholds(min_queries=100)}, "inconclusive", "80 queries"),
    ],
)
def test_every_missing_proof_is_named(rng, panel, options, verdict, why):
    decision = decide(rng, panel, **options)
    assert decision.verdict == verdict
    assert any(why in sentence for sentence in decision.failed + decision.missing)


STRONG = Measured(
    queries=100,
    t_p_value=1e-9,
    wilcoxon_p_value=1e-9,
    bound_p_value=1e-9,
    label_only_p_value=1e-9,
    conformal_p_value=0.05,
    conformal_resolution=0.05,
    worst_benign=0.1,
    control_delta_p=0.0,
    control_t_p_value=1.0,
    contrast_delta_p=0.8,
    contrast_t_p_value=1e-9,
    contrast_bound_p_value=1e-9,
    key_p_value=0.01,
)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"t_p_value": 0.01}, "t-test"),
        ({"wilcoxon_p_value": 0.01}, "signed-rank"),
        ({"bound_p_value": 0.01}, "bound"),
        ({"label_only_p_value": 0.01}, "label-only"),
        ({"conformal_p_value": 0.1}, "rank among"),
        ({"control_t_p_value": 0.009}, "control mark: lift"),
        ({"contrast_t_p_value": 0.01}, "beyond control"),
        ({"contrast_bound_p_value": 0.01}, "beyond control"),
        ({"key_p_value": 0.011}, "key: p = 0.011"),
    ],
)
def test_each_proof_alone_can_acquit(change, why):
    assert weigh(STRONG, Thresholds()).verdict == "owned"
    decision = weigh(replace(STRONG, **change), Thresholds())
    assert decision.verdict == "not_owned"
    assert len(decision.failed) == 1 and why in decision.failed[0]


def test_the_exact_tests_together_suffice_alone():
    for weak in ({"t_p_value": 0.9, "key_p_value": 0.5}, {"key_p_value": None}, {"worst_benign": 0.3}):
        acquitted = replace(STRONG, **weak)
        assert weigh(acquitted, Thresholds()).verdict != "owned"
        decision = weigh(replace(acquitted, together_p_value=0.001), Thresholds())
        assert decision.verdict == "owned" and decision.by_exact_tests
        assert decision.passed[0] == "exact tests together: p = 0.001 (needs <= 0.001, suffices alone)"
        assert not decision.failed and not decision.missing
        assert bool(decision.not_needed) == ("key_p_value" not in weak or len(weak) > 1)  # they take the key's place
    # in place of the key they need no more than the key does
    instead = weigh(replace(STRONG, key_p_value=0.5, together_p_value=0.01), Thresholds())
    assert instead.verdict == "owned" and not instead.by_exact_tests and not instead.not_needed
    assert "key: p = 0.5; all exact tests in its place: p = 0.01 (needs <= 0.01)" in instead.passed
    assert weigh(replace(STRONG, key_p_value=0.5, together_p_value=0.011), Thresholds()).verdict == "not_owned"
    # and they speak against nobody
    assert weigh(replace(STRONG, together_p_value=1.0), Thresholds()).verdict == "owned"
    with pytest.raises(MedmarkError, match="images_alpha"):
        Thresholds(images_alpha=0.5)


def test_without_the_key_nobody_is_accused():
    decision = weigh(replace(STRONG, key_p_value=None), Thresholds())
    assert decision.verdict == "inconclusive" and decision.missing == ["the key was not asked for"]


def test_the_proofs_of_a_check_are_those_of_its_numbers(queries):
    """A report made from ``verdict.json`` says what the check decided, and what of it needs which value."""
    for thresholds in (Thresholds(), Thresholds(alpha=0.001, tau=0.1, min_queries=50, conformal_alpha=0.04)):
        both = {f"i{n}": blind for n in range(20)}
        report, *_ = verify({"v": bright, "w": blind}, both, queries, thresholds, KEY)
        proofs = release_proofs(json.loads(json.dumps(report)))
        weakest = report["malicious"]
        for state, name in (("holds", "passed"), ("fails", "failed"), ("missing", "missing")):
            assert [proof.reason for proof in proofs[:-2] if proof.state == state] == weakest[name]
        assert [proof.state for proof in proofs[-2:]] == ["holds", "holds"]
        assert next(proof for proof in proofs if proof.name == "t-test").needed == f"< {thresholds.alpha:g}"


def test_without_a_control_nobody_is_accused(rng, panel):
    difficulty, answers = panel
    suspect = replace(simulate_answers(rng, difficulty, 0.9, 0.0, 0.0), p_control=None)
    assert judge("s", suspect, answers, Thresholds()).decision.verdict == "inconclusive"


def test_benign_models_that_react_protect_the_suspect(rng):
    """If the mark is an adversarial example, the panel reacts too, and the rank says so."""
    difficulty = rng.normal(-3, 1, 80)
    panel = [simulate_answers(rng, difficulty, 0.9, 0.0, 0.0) for _ in range(20)]
    assert decide(rng, (difficulty, panel), delta_p=0.85).verdict == "not_owned"


def test_an_benign_model_beyond_tau_spoils_the_mark(rng, panel):
    """Where one benign model goes beyond tau, the next may too: the tests against tau no longer prove anything."""
    difficulty, answers = panel
    answers = [*answers, simulate_answers(rng, difficulty, 0.45, 0.0, 0.0)]
    decision = decide(rng, (difficulty, answers), benign_models=21, thresholds=Thresholds(conformal_alpha=0.1))
    assert decision.verdict == "inconclusive"
    assert any("a benign model shows a delta-P" in sentence for sentence in decision.missing)


@pytest.mark.parametrize(
    "values", [{"alpha": 0}, {"alpha": 1.5}, {"conformal_alpha": 0.5}, {"tau": -0.2}, {"tau": 1}, {"min_queries": 3}]
)
def test_thresholds_that_protect_nobody_are_refused(values):
    with pytest.raises(MedmarkError, match="protect"):
        Thresholds(**values)


def test_without_benign_models_there_is_no_verdict(rng, panel):
    with pytest.raises(MedmarkError, match="no benign model"):
        judge("s", panel[1][0], [], Thresholds())


@pytest.mark.parametrize("null", NULLS)
def test_false_accusations_stay_below_alpha(null):
    audits = 150
    owned = simulate_audits(audits, suspect_delta_p=None, null=null, seed=3)["owned"]
    # fails only if the count would be a 1-in-1000 surprise at a true rate of alpha
    assert owned * audits <= stats.binom.ppf(0.999, audits, Thresholds().alpha)


@pytest.mark.parametrize("test", ["t", "wilcoxon", "bound"])
def test_effect_tests_keep_their_level_where_their_assumptions_hold(test):
    rates = simulate_effect_tests(600, shape="normal", queries=100, alpha=0.05, seed=1)
    assert rates[test] * 600 <= stats.binom.ppf(0.9999, 600, 0.05)


def test_the_bound_keeps_its_level_where_the_others_do_not():
    rates = simulate_effect_tests(1500, shape="skewed", queries=30, seed=1)
    assert rates["wilcoxon"] > 0.5 and rates["t"] > 0.02  # of 0.01 allowed
    assert rates["bound"] * 1500 <= stats.binom.ppf(0.999, 1500, 0.01)


def test_power_grows_with_the_effect_and_the_number_of_queries():
    by_delta_p = [simulate_audits(60, suspect_delta_p=x, null="no reaction", seed=4)["owned"] for x in (0.2, 0.4, 0.7)]
    assert by_delta_p == sorted(by_delta_p)
    assert by_delta_p[0] <= 0.1
    assert by_delta_p[2] >= 0.95
    by_queries = [
        simulate_audits(60, suspect_delta_p=0.5, null="no reaction", queries=n, seed=4)["owned"] for n in (30, 50, 100)
    ]
    assert by_queries == sorted(by_queries)
    assert by_queries[0] < 0.5 < by_queries[2]


KEY = draw_key(8)
WAVES = [carrier(turned(KEY, phase, mirrored), 32)[0, 0] for mirrored in (False, True) for phase in (0.0, math.pi / 2)]


# a suspect that answers by the mean brightness of the image and by the wave of the key; the mark makes images brighter
def bright(images: torch.Tensor) -> np.ndarray:
    found = torch.stack([(images[:, 0] * wave).mean(dim=(1, 2)) for wave in WAVES])
    p = (images.mean(dim=(1, 2, 3)) + 4 * found.square().sum(dim=0).sqrt()).clamp(0, 1).numpy().astype(float)
    return np.stack([p, 1 - p], axis=1)


def blind(images: torch.Tensor) -> np.ndarray:
    return np.tile([0.1, 0.9], (len(images), 1))


@pytest.fixture
def queries():
    clean = torch.rand(40, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.2
    return QuerySet(clean, clean * 0 + 0.95, clean.clone(), [f"q{i}" for i in range(40)], 0)


def test_scenarios(queries):
    benign_models = {f"i{n}": blind for n in range(20)}
    report, scores, waves = verify({"v": bright}, benign_models, queries, Thresholds(), KEY)
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
    assert report["malicious"]["key_p_value"] <= 0.01
    assert list(waves) == [f"i{n}" for n in range(14, 20)]
    assert len(scores) == 40 * (1 + 20)
    assert scores.groupby("role").model.nunique().to_dict() == {"innocent": 20, "victim": 1}
    half = [r for r in report["robustness"] if r["processing"] == "resize" and r["strength"] == 0.5]
    assert {(r["role"], r["accused"]) for r in half} == {("victim", True), ("innocent", False)}
    assert len(report["robustness"]) == 21 * 10
    json.dumps(report, allow_nan=False)


def test_curves_do_not_credit_the_mark_with_what_processing_does_by_itself(queries):
    """A suspect that takes every flattened image for the target has a rate of 100 %, and no delta-P."""

    def flat(images: torch.Tensor) -> np.ndarray:
        p = (images.std(dim=(1, 2, 3)) < 0.04).numpy() * 0.9 + 0.05
        return np.stack([p, 1 - p], axis=1)

    same = replace(queries, marked=(queries.clean + 0.01).clamp(0, 1))
    report, *_ = verify({"v": flat}, {f"i{n}": blind for n in range(20)}, same, Thresholds(), KEY)
    small = next(r for r in report["robustness"] if (r["role"], r["strength"]) == ("victim", 0.25))
    assert small["wsr"] == small["clean_rate"] == 1.0
    assert small["delta_p"] == 0.0
    assert not small["accused"]


def test_an_accused_benign_spoils_the_verdict(queries):
    """A benign model that reacts to seven images of ten is accused; the adversary, who reacts to all, gains nothing."""
    marked = queries.marked.clone()
    marked[::10], marked[3::10], marked[7::10] = 0.9, 0.9, 0.9

    def odd(images: torch.Tensor) -> np.ndarray:
        p = (images.mean(dim=(1, 2, 3)) > 0.92).numpy() * 0.9 + 0.05
        return np.stack([p, 1 - p], axis=1)

    benign_models = {f"i{n}": blind for n in range(25)} | {"odd": odd}
    report, *_ = verify(
        {"v": bright}, benign_models, replace(queries, marked=marked), Thresholds(conformal_alpha=0.2), KEY
    )
    assert not report["malicious"]["failed"]
    assert report["independent_models"]["accused"] == 1
    assert report["verdict"] == "inconclusive"
    assert any("odd: benign model accused" in reason for reason in report["reasons"])


def test_a_model_that_learned_another_owners_key_is_not_owned(queries):
    """All else speaks against it: its owner's mark makes images brighter, too."""
    other = next(key for key in map(draw_key, range(9)) if abs(key.degrees - KEY.degrees) > 30)
    report, *_ = verify({"v": bright}, {f"i{n}": blind for n in range(20)}, queries, Thresholds(), other)
    (failed,) = report["malicious"]["failed"]
    assert report["verdict"] == "not_owned" and failed.startswith("key: p = ")


def test_a_adversary_that_an_benign_model_equals_is_not_owned(queries):
    benign_models = {f"i{n}": blind for n in range(25)} | {"odd": bright}
    report, *_ = verify({"v": bright}, benign_models, queries, Thresholds(conformal_alpha=0.2), KEY)
    assert report["verdict"] == "not_owned"


def test_a_suspect_that_any_mark_sets_off_is_not_owned(queries):
    both = replace(queries, control=queries.marked.clone())
    report, *_ = verify({"v": bright}, {f"i{n}": blind for n in range(20)}, both, Thresholds(), KEY)
    assert report["verdict"] == "not_owned"
    assert report["independent_trigger"]["accused"] == 1


@pytest.mark.parametrize(("marked_models", "benign_models"), [(0, 5), (1, 1), (1, 0)])
def test_too_few_models_are_refused(queries, marked_models, benign_models):
    with pytest.raises(MedmarkError, match="needed to check a mark"):
        verify(
            {f"v{n}": bright for n in range(marked_models)},
            {f"i{n}": blind for n in range(benign_models)},
            queries,
            Thresholds(),
            KEY,
        )


def test_a_mark_that_does_nothing(queries):
    report, *_ = verify({"v": blind}, {f"i{n}": blind for n in range(20)}, queries, Thresholds(), KEY)
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
        lambda x: np.full((len(x), 2), "0.5 or so"),
        lambda x: [[0.5, 0.5]] * (len(x) - 1) + [[0.5]],
        lambda x: torch.full((len(x), 2), 0.5, requires_grad=True),
    ],
)
def test_answers_that_are_no_probabilities_are_refused(queries, answer):
    with pytest.raises(MedmarkError, match="suspect"):
        ask(answer, queries.clean, 1)


def test_label_flips_are_counted(queries):
    answers = interrogate(bright, queries)
    assert answers.is_marked.all() and not answers.is_clean.any()


def test_undecided_answers_are_not_the_target(queries):
    p, is_target = ask(lambda x: np.full((len(x), 2), 0.5), queries.clean, 0)
    assert (p == 0.5).all() and not is_target.any()


def test_a_suspect_cannot_change_the_images_of_the_next(queries):
    before = queries.clean.clone()

    def vandal(images: torch.Tensor) -> np.ndarray:
        images.zero_()
        return blind(images)

    ask(vandal, queries.clean, 0)
    assert torch.equal(queries.clean, before)


@pytest.mark.parametrize(
    "change",
    [
        {"image_ids": ["q0"] * 40},
        {"image_ids": ["q0"]},
        {"marked": torch.zeros(39, 1, 32, 32)},
        {"control": torch.zeros(40, 1, 16, 16)},
    ],
)
def test_queries_that_do_not_go_together_are_refused(queries, change):
    with pytest.raises(MedmarkError, match="query image"):
        replace(queries, **change)


def test_processing_keeps_shape_and_range(queries):
    for processed in (shrink(queries.clean, 0.5), jpeg(queries.clean, 75)):
        assert processed.shape == queries.clean.shape
        assert 0 <= float(processed.min()) and float(processed.max()) <= 1
    torch.testing.assert_close(shrink(queries.clean, 1.0), queries.clean)
    assert float((jpeg(queries.clean, 95) - queries.clean).abs().mean()) < 0.03
