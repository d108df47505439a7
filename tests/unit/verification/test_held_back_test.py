"""Whether a suspect knows published patients better: exact for whoever did not learn from the release, told of whoever remembers it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from medmark.components.base.errors import MedmarkError
from medmark.components.evidence.held_back import Shown, is_held_back
from medmark.components.verification import held_back_test as module
from medmark.components.verification.held_back_test import (
    DRAWS,
    HOPELESS_AFTER,
    held_back_test,
    judge_held_back,
)
from scipy import stats

# what suspects may answer: noise, a few images far surer than others, by class, by what benign models expect, all alike
SHAPES = {
    "normal": lambda rng, expected, labels: rng.normal(size=len(labels)),
    "heavy": lambda rng, expected, labels: rng.standard_t(1.5, size=len(labels)),
    "by class": lambda rng, expected, labels: 3.0 * labels + rng.normal(size=len(labels)),
    "as expected": lambda rng, expected, labels: expected**3 + 0.1 * rng.normal(size=len(labels)),
    "alike": lambda rng, expected, labels: np.ones(len(labels)),
}


def patients_of(rng, count: int) -> list[str]:
    """Patients of ``count`` images; some have several."""
    return [f"patient-{n}" for n in np.sort(rng.integers(0, count * 2 // 3, count))]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(sorted(SHAPES)))
def test_the_level_holds_over_all_lots(seed, shape):
    """The answers are whatever they are; only the lot is random, as it is for a suspect that did not learn from the release."""
    rng = np.random.default_rng(seed)
    patients, labels, expected = patients_of(rng, 90), rng.integers(0, 2, 90), rng.normal(2, 2, 90)
    answers = SHAPES[shape](rng, expected, labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "DRAWS", 2_000)
        p = []
        for lot in rng.integers(0, 2**31, 120):
            held_back = np.array([is_held_back(int(lot), patient, 0.25) for patient in patients])
            p.append(judge_held_back(answers, expected, labels, patients, held_back).p_value)
    for level in (0.05, 0.2, 0.5):
        assert stats.binomtest(sum(one <= level for one in p), len(p), level, alternative="greater").pvalue > 1e-6


def test_the_p_value_is_that_of_a_permutation_test(rng):
    held_back, expected, labels = rng.random(300) < 0.3, rng.normal(2, 2, 300), rng.integers(0, 2, 300)
    answers = 0.7 * expected + labels + rng.normal(size=300) - 0.3 * held_back
    found = judge_held_back(answers, expected, labels, [f"p{n}" for n in range(300)], held_back)
    beyond = module._beyond(answers, expected, labels)
    scipy = stats.permutation_test(
        (beyond[~held_back], beyond[held_back]),
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        vectorized=True, n_resamples=20_000, alternative="greater", rng=1,
    )  # fmt: skip
    assert 0.0002 < scipy.pvalue < 0.2
    spread = np.sqrt(scipy.pvalue / DRAWS)
    assert found.p_value == pytest.approx(scipy.pvalue, abs=8 * spread)
    assert found.p_value == pytest.approx(stats.norm.sf(found.lead), rel=0.5)
    assert (found.images, found.held_back) == (300, int(held_back.sum()))


def shown(rng, images: int, share: float = 0.3) -> list[Shown]:
    """Images of many patients, in parts; benign models expect brighter ones to be of class 1."""
    parts = []
    for start in range(0, images, 50):
        count = min(50, images - start)
        pictures, labels = torch.from_numpy(rng.random((count, 1, 8, 8))).float(), rng.integers(0, 2, count)
        bright = 40 * (pictures.mean(dim=(1, 2, 3)).double().numpy() - 0.5)
        parts.append(
            Shown(
                [f"patient-{start + n}" for n in range(count)],
                rng.random(count) < share,
                labels,
                np.where(labels == 1, bright, -bright) + rng.normal(size=count) / 4,
                pictures,
            )
        )
    return parts


class Remembers:
    """A suspect that is surer of what it was trained on.

    Args:
        parts: that it is asked about.
        more: log-odds by which it is surer of the published ones.
    """

    def __init__(self, parts: list[Shown], more: float):
        self.known = {
            image.numpy().tobytes(): more if label == 1 else -more
            for part in parts
            for image, label, away in zip(part.images, part.labels, part.held_back, strict=True)
            if not away
        }
        self.asked = 0

    def __call__(self, images: torch.Tensor) -> np.ndarray:
        self.asked += len(images)
        odds = [40 * (float(x.mean()) - 0.5) + self.known.get(x.numpy().tobytes(), 0.0) for x in images]
        p = 1 / (1 + np.exp(-np.array(odds)))
        return np.stack([1 - p, p], axis=1)


def test_who_remembers_is_told_and_others_are_left_alone(rng):
    parts = shown(rng, 420)
    suspect = Remembers(parts, 0.5)
    told = held_back_test(suspect, parts)
    assert told.p_value < 0.001 and told.images == suspect.asked == 420 and told.lead > 4
    stranger = held_back_test(Remembers(shown(rng, 420), 5.0), parts)
    assert stranger.p_value > 0.001
    backwards = Remembers(parts, -0.5)  # surer of what was not published
    left = held_back_test(backwards, parts)
    assert (left.p_value, left.images, backwards.asked) == (1.0, HOPELESS_AFTER, HOPELESS_AFTER) and left.lead < 0


@pytest.mark.parametrize("answer", [0.0, 0.5, 1.0])
def test_who_answers_all_alike_is_not_accused(rng, answer):
    found = held_back_test(lambda images: np.tile([1 - answer, answer], (len(images), 1)), shown(rng, 60))
    assert found.p_value == 1.0


def test_without_anybody_on_one_side_nothing_is_found(rng):
    assert held_back_test(Remembers([], 1.0), shown(rng, 60, share=0.0)).p_value == 1.0


def test_answers_that_are_no_probabilities_are_refused(rng):
    with pytest.raises(MedmarkError, match="not probabilities"):
        held_back_test(lambda images: np.full((len(images), 2), 0.9), shown(rng, 2))


def test_the_lot_has_the_stated_chance_and_differs_by_seed():
    drawn = [is_held_back(seed, f"patient-{n}", 0.2) for seed in range(10) for n in range(300)]
    assert stats.binomtest(sum(drawn), len(drawn), 0.2).pvalue > 1e-4
    assert drawn[:300] != drawn[300:600]
