"""The exact tests together: Fisher's method over what lots decided, exact for whoever did not learn from the release."""

import numpy as np
import pytest
from medmark.components.generator.key import KEYS
from medmark.components.verification.exact_tests import KnownImages, joined
from medmark.components.verification.held_back_test import HeldBackTest
from medmark.components.verification.key_test import KeyTest
from medmark.components.verification.variant_test import VariantTest
from scipy import stats


def of(key: int | None, variants: float | None, held_back: float | None) -> tuple[KeyTest | None, KnownImages]:
    """Tests with this rank and these p-values."""
    return (
        None if key is None else KeyTest(key / KEYS, key, KEYS, 30),
        KnownImages(
            None if variants is None else VariantTest(variants, 200, 1.0),
            None if held_back is None else HeldBackTest(held_back, 400, 100, 1.0),
        ),
    )


def test_they_are_joined_as_statisticians_do():
    for rank, variants, held_back in ((18, 0.03, 0.1), (9, 1.0, 0.002), (None, 0.2, 0.004), (1800, 1.0, 1.0)):
        p = [one for one in (rank and rank / KEYS, variants, held_back) if one is not None]
        expected = stats.chi2.sf(-2 * np.log(p).sum(), 2 * len(p))
        assert joined(*of(rank, variants, held_back)) == pytest.approx(expected)
    assert joined(*of(None, 0.02, None)) == pytest.approx(0.02)
    assert joined(*of(None, None, 0.5)) == pytest.approx(0.5)


def test_the_level_holds_for_whoever_did_not_learn():
    """Ranks and p-values as lots give them, variants left alone where they are behind, and the key asked for only where it is worth it."""
    rng, found = np.random.default_rng(3), []
    for _ in range(20_000):
        variants, held_back = rng.integers(1, 100_002) / 100_001, rng.integers(1, 20_002) / 20_001
        images = KnownImages(
            VariantTest(variants if variants < 0.6 else 1.0, 200, 1.0), HeldBackTest(held_back, 9, 3, 1.0)
        )
        rank = int(rng.integers(1, KEYS + 1))
        key = KeyTest(rank / KEYS, rank, KEYS, 30) if images.worth_the_key else None
        found.append(joined(key, images) if key else 1.0)
    for level in (0.001, 0.01, 0.05):
        accused = sum(p <= level for p in found)
        assert stats.binomtest(accused, len(found), level, alternative="greater").pvalue > 1e-4
    assert sum(p <= 0.01 for p in found) > 50  # it is asked for where it matters


@pytest.mark.parametrize(
    ("variants", "held_back", "worth"),
    [(0.09, None, True), (0.11, None, False), (0.3, 0.06, True), (1.0, 0.02, True), (1.0, 0.05, False)],
)
def test_the_key_is_asked_for_where_it_can_decide(variants, held_back, worth):
    assert of(None, variants, held_back)[1].worth_the_key == worth
