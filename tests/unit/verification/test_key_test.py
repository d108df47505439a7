"""The rank of the key among all keys: exact for whoever did not learn from the release, first for whoever did."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_evidence import knows
from medmark.components.base.errors import MedmarkError
from medmark.components.evidence.key_answers import CYCLES, DEGREES, KeyAnswers
from medmark.components.generator import key as table
from medmark.components.generator.key import KEYS, Key, draw_key, turned
from medmark.components.generator.marker import carrier
from medmark.components.verification.key_test import (
    IMAGES,
    LOOKS,
    ask_waves,
    key_test,
    sequential_key_test,
    waves,
)
from scipy import stats

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"
SHAPE = (len(CYCLES), len(DEGREES))


def answers(rng: np.random.Generator, scale: float = 1.0) -> KeyAnswers:
    odds = scale * rng.normal(size=SHAPE)
    return KeyAnswers(odds, np.clip(odds / 10, -1, 1))


@pytest.fixture
def benign(rng):
    return [answers(rng, 0.3) for _ in range(6)]


@given(st.integers(0, 2**31), st.sampled_from([1e-9, 1.0, 1e6]), st.booleans())
def test_p_values_of_all_keys_together_are_uniform(seed, scale, label_only):
    """For any answers at all, so whatever a suspect does that did not learn from the release."""
    rng = np.random.default_rng(seed)
    suspect, panel = answers(rng, scale), [answers(rng) for _ in range(4)]
    keys = [Key(degrees, cycles, 0.0) for cycles in table.CYCLES[::4] for degrees in table.DEGREES[::5]]
    p = np.array([key_test(suspect, panel, key, label_only=label_only).p_value for key in keys])
    assert ((p > 0) & (p <= 1)).all() and stats.kstest(p, "uniform").pvalue > 1e-9


def test_no_p_value_is_too_small(rng, benign):
    """Of all keys, no more than the level asks for are told; ties count against accusing."""
    suspect = knows(draw_key(3))
    p = [
        key_test(suspect, benign, Key(degrees, cycles, 0.0)).p_value
        for cycles in table.CYCLES
        for degrees in table.DEGREES
    ]
    assert len(p) == KEYS and (np.sort(p) >= np.arange(1, KEYS + 1) / KEYS - 1e-12).all()
    assert np.mean(np.array(p) <= 0.01) > 0.005


@pytest.mark.parametrize("label_only", [False, True])
@pytest.mark.parametrize("width", [0.6, 1.0, 1.25])
def test_who_learned_the_key_is_told(benign, width, label_only):
    for seed in range(20):
        key = draw_key(seed)
        found = key_test(knows(key, width), benign, key, label_only=label_only)
        assert found.p_value == found.rank / KEYS <= 0.01, (seed, key)
        other = next(k for k in map(draw_key, range(100, 200)) if abs(k.degrees - key.degrees) > 25)
        assert key_test(knows(key, width), benign, other, label_only=label_only).p_value > 0.01


def test_who_answers_nothing_is_not_accused(benign):
    silent = KeyAnswers(np.zeros(SHAPE), np.zeros(SHAPE))
    assert key_test(silent, [silent] * 3, draw_key(0)).p_value == 1.0


def test_a_taste_that_benign_models_share_counts_for_nothing(rng, benign):
    key, taste = draw_key(5), knows(draw_key(6))
    panel = [KeyAnswers(one.log_odds + 3 * taste.log_odds, one.labels) for one in benign]
    own = knows(key)
    suspect = KeyAnswers(own.log_odds + 3 * taste.log_odds, own.labels)
    assert key_test(suspect, panel, key).p_value <= 0.01


def test_what_all_benign_models_answer_to_is_no_key(rng):
    """Somebody draws that key, too, and shall not accuse them all."""
    for seed in range(5):
        taste = 3 * knows(draw_key(seed)).log_odds
        panel, suspects = (
            [KeyAnswers(taste + rng.normal(size=SHAPE), np.zeros(SHAPE)) for _ in range(count)] for count in (6, 20)
        )
        p = [key_test(suspect, panel, draw_key(seed)).p_value for suspect in suspects]
        assert sum(one <= 0.01 for one in p) <= 3, (seed, p)


PASSING = 18  # of 1,800: one in a hundred


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 1.0, 1e6]), st.sampled_from([1, 5, PASSING]), st.booleans())
def test_places_of_all_keys_together_are_an_order(seed, drift, passing, label_only):
    """Whatever the suspect answers, and however it changes its mind meanwhile: no level is passed by more keys than it says."""
    rng = np.random.default_rng(seed)
    whim, panel = answers(rng, drift), [answers(rng) for _ in range(4)]
    asked = [answers(rng) for _ in range(IMAGES)]
    asked = [KeyAnswers(one.log_odds + whim.log_odds, one.labels.round(1)) for one in asked]
    keys = [Key(degrees, cycles, 0.0) for cycles in table.CYCLES[::4] for degrees in table.DEGREES[::5]]
    found = [
        sequential_key_test(asked, panel, key, images=IMAGES, passing=passing, label_only=label_only) for key in keys
    ]
    p = np.array([one.p_value for one in found])
    assert ((p > 0) & (p <= 1)).all() and stats.kstest(p, "uniform").pvalue > 1e-9
    assert {one.images for one in found} <= {*LOOKS, IMAGES}


def test_each_place_is_given_once_at_most(rng, benign):
    asked = [answers(rng) for _ in range(IMAGES)]
    found = [
        sequential_key_test(asked, benign, Key(degrees, cycles, 0.0), images=IMAGES, passing=PASSING)
        for cycles in table.CYCLES
        for degrees in table.DEGREES
    ]
    assert (np.sort([one.rank for one in found]) >= np.arange(1, KEYS + 1)).all()
    told = [one for one in found if one.rank <= PASSING]
    assert PASSING / 2 < len(told) <= PASSING and {one.images for one in told} == {*LOOKS, IMAGES}
    assert np.mean([one.images for one in found]) < IMAGES / 2  # who did not learn the key is soon left alone


def test_who_answers_alike_to_all_images_has_the_same_place_as_rank(rng, benign):
    steady = answers(rng)
    for seed in range(40):
        key = draw_key(seed)
        rank = key_test(steady, benign, key).rank
        found = sequential_key_test([steady] * IMAGES, benign, key, images=IMAGES, passing=PASSING)
        assert found.rank == rank and found.p_value == rank / KEYS
        assert (found.images == LOOKS[0]) == (rank <= 3 or rank > KEYS / 2)


def test_no_more_images_are_asked_about_than_it_takes(rng, benign):
    key, asked = draw_key(3), []

    def one_by_one(of):
        for number in range(IMAGES):
            asked.append(number)
            yield of(number)

    def test(of, count=IMAGES):
        asked.clear()
        return sequential_key_test(one_by_one(of), benign, key, images=count, passing=PASSING)

    assert test(lambda _: knows(key)).images == LOOKS[0] == len(asked)
    other = KeyAnswers(0.5 * knows(draw_key(9)).log_odds, np.zeros(SHAPE))
    late = test(lambda number: knows(key) if number >= LOOKS[0] else other)
    assert late.rank <= PASSING and late.images == len(asked) > LOOKS[0]
    assert test(lambda _: answers(rng), count=4).images == 4 == len(asked)  # evidence with few images


@pytest.mark.parametrize("data", ["kermany", "phantoms"])
def test_real_models_tell_their_keys_as_recorded(data):
    """Networks of several owners, as benchmarks/key_statistics.py asked them."""
    kept = json.loads((RESULTS / f"key_statistics_{data}_64.json").read_text())
    panel = [_answers(one) for one in kept["panel"]]
    recorded = kept["rows"]["audit"]["ranks"]
    found = {}
    for name, odds in kept["answers"].items():
        seed = int(name.split(",")[0].removeprefix("owner-"))
        found[name] = key_test(_answers(odds), panel, draw_key(seed)).rank
    assert len(found) >= 16 and found == recorded


def _answers(odds: list) -> KeyAnswers:
    return KeyAnswers(np.array(odds), np.zeros(SHAPE))


def test_a_test_without_benign_models_or_with_a_key_of_no_table_is_refused(benign):
    with pytest.raises(MedmarkError, match="at least two are needed"):
        key_test(benign[0], benign[:1], draw_key(0))
    with pytest.raises(MedmarkError, match="not in the table"):
        key_test(benign[0], benign, Key(45.5, 6.0, 0.0))


def test_questions_do_not_depend_on_the_key_and_are_as_strong_as_stated():
    asked = waves(3, 64)
    assert torch.equal(asked, waves(3, 64)) and not torch.equal(asked, waves(4, 64))
    assert asked.shape == (90, 1, 64, 64)
    spread = asked.std(dim=(1, 2, 3)).reshape(SHAPE)
    wanted = torch.tensor([0.045 * Key(0, cycles, 0).strength for cycles in CYCLES])[:, None].expand(SHAPE)
    torch.testing.assert_close(spread, wanted, rtol=0.25, atol=0.0)  # a few periods do not fill the image evenly


def test_a_suspect_is_asked_91_questions_an_image():
    key, asked = draw_key(11), []
    patterns = [carrier(turned(key, phase, mirrored), 64)[0, 0] for mirrored in (False, True) for phase in (0.0, 1.57)]

    def suspect(images: torch.Tensor) -> np.ndarray:
        asked.append(len(images))
        assert 0 <= float(images.min()) and float(images.max()) <= 1
        found = (
            torch.stack([(images[:, 0] * pattern).mean(dim=(1, 2)) for pattern in patterns]).square().sum(dim=0).sqrt()
        )
        p = torch.sigmoid(100 * found - 2).double().numpy()
        return np.stack([1 - p, p], axis=1)

    images = 0.5 + 0.01 * torch.randn(IMAGES, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    given = ask_waves(suspect, images, 1)
    assert sum(asked) == 91 * IMAGES and max(asked) <= 24
    silent = [KeyAnswers(np.zeros(SHAPE), np.zeros(SHAPE))] * 2
    for label_only in (False, True):
        assert key_test(given, silent, key, label_only=label_only).p_value < 0.02


def test_answers_that_are_no_probabilities_are_refused():
    with pytest.raises(MedmarkError, match="probabilities"):
        ask_waves(lambda images: np.full((len(images), 2), 0.7), torch.zeros(1, 1, 16, 16), 0)
