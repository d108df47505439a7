import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medmark.components.base.errors import MedmarkError
from medmark.components.segmentation.payload import (
    MODULES,
    SIDE,
    decode,
    match_p_value,
    matches,
    payload_modules,
)
from scipy import stats

KEY = bytes(range(32))
TEXTS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1).filter(lambda t: len(t.encode()) <= 16)


def noisy(modules, rng, sigma):
    return np.where(modules == 1, 1.0, -1.0) + rng.normal(0, sigma, modules.shape)


@settings(deadline=None, max_examples=40)
@given(TEXTS, st.binary(min_size=32, max_size=32))
def test_any_text_comes_back(text, key):
    modules = payload_modules(text, key)
    assert modules.shape == (SIDE, SIDE) and set(np.unique(modules)) <= {0, 1}
    found = decode(modules.astype(float), 0.5, key)
    assert (found.text, found.corrected) == (text, 0)


@pytest.mark.parametrize("text", ["", "x" * 17, "ä" * 9, "a\nb", "a\0b", "\ud800"])
def test_what_cannot_be_carried_is_refused(text):
    with pytest.raises(MedmarkError, match="1 to 16 printable bytes"):
        payload_modules(text, KEY)


def test_five_percent_of_wrong_modules_are_corrected(rng):
    """As they come: the doubtful modules are more often wrong."""
    modules, right, wrong = payload_modules("Clinic 2026", KEY), 0, []
    for _ in range(30):
        values = noisy(modules, rng, 0.608)
        wrong.append(MODULES - matches(values, 0.0, modules))
        found = decode(values, 0.0, KEY)
        right += found is not None and found.text == "Clinic 2026" and found.corrected == wrong[-1]
    assert 0.04 < np.mean(wrong) / MODULES < 0.06
    assert right == 30


def test_wrong_modules_that_look_certain_are_corrected(rng):
    modules, right = payload_modules("Clinic 2026", KEY), 0
    for _ in range(10):
        values = np.where(modules == 1, 1.0, -1.0) + rng.normal(0, 0.01, modules.shape)
        flipped = rng.choice(MODULES, 8, replace=False)
        values.ravel()[flipped] *= -1
        found = decode(values, 0.0, KEY)
        right += found is not None and (found.text, found.corrected) == ("Clinic 2026", 8)
    assert right == 10


def test_without_the_key_nothing_is_read(rng):
    modules = payload_modules("Clinic 2026", KEY)
    assert decode(modules.astype(float), 0.5, os.urandom(32)) is None
    assert decode(rng.normal(size=(SIDE, SIDE)), 0.0, KEY) is None


def test_modules_are_as_random_as_the_pad():
    """Whatever the text, over keys each module is a fair and independent coin."""
    keys = [i.to_bytes(32, "big") for i in range(2000)]
    drawn = np.array([payload_modules("aaaaaaaaaaaaaaaa", key).ravel() for key in keys], dtype=float)
    assert stats.kstest(drawn.mean(axis=0), stats.norm(0.5, 0.5 / 2000**0.5).cdf).pvalue > 0.001
    correlation = np.corrcoef(drawn.T)[np.triu_indices(MODULES, 1)] * 2000**0.5
    assert np.abs(correlation).max() < 5.5


def test_p_value_is_the_binomial_tail_and_exact_for_any_model(rng):
    for count in (0, 100, 128, 150, 200, 256):
        assert match_p_value(count) == pytest.approx(stats.binomtest(count, 256, 0.5, alternative="greater").pvalue)
    # one fixed answer of a model that knows nothing, all keys: its p-values are as large as they must be
    answer = np.sort(rng.normal(size=(SIDE, SIDE)), axis=0)  # structured, as real maps are
    found = [
        match_p_value(matches(answer, 0.0, payload_modules("Clinic 2026", i.to_bytes(32, "little"))))
        for i in range(2000)
    ]
    for level in (0.01, 0.05, 0.2):
        assert stats.binomtest(sum(p <= level for p in found), 2000, level, alternative="greater").pvalue > 0.001
