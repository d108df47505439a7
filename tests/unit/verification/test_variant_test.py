"""Whether a suspect knows the published images: exact for whoever did not learn from the release, told of whoever remembers it."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from medmark.components.base.errors import MedmarkError
from medmark.components.evidence.variants import (
    OTHERS,
    VARIANTS,
    VARIANTS_SCHEMA,
    VariantsOf,
    published_at,
    read_variants,
    write_variants,
)
from medmark.components.verification import variant_test as module
from medmark.components.verification.variant_test import DRAWS, HOPELESS_AFTER, judge_variants, variant_test
from scipy import stats

COUNT = 1 + OTHERS
# what suspects may answer: alike to all, wildly, by place in the request, or far surer of a few images than of the others
SHAPES = {
    "normal": lambda rng, n: rng.normal(size=(COUNT, n)),
    "heavy": lambda rng, n: rng.standard_t(1.5, size=(COUNT, n)),
    "by place": lambda rng, n: np.repeat(np.arange(COUNT, dtype=float)[:, None], n, axis=1),
    "few": lambda rng, n: rng.normal(size=(COUNT, n)) * (rng.random(n) < 0.1) * 10,
    "labels": lambda rng, n: (rng.random((COUNT, n)) < 0.5).astype(float),
}


def published_first(answers: np.ndarray, lots: np.ndarray) -> np.ndarray:
    """The answers of each image with the one that the lot names first."""
    columns = [np.concatenate([a[[lot]], np.delete(a, lot)]) for a, lot in zip(answers.T, lots, strict=True)]
    return np.stack(columns, axis=1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(sorted(SHAPES)))
def test_the_level_holds_over_all_lots(seed, shape):
    """The answers are whatever they are; only the lot is random, as it is for a suspect that did not learn from the release."""
    rng = np.random.default_rng(seed)
    answers = SHAPES[shape](rng, 30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "DRAWS", 10_000)
        p = [judge_variants(published_first(answers, rng.integers(COUNT, size=30))).p_value for _ in range(120)]
    for level in (0.05, 0.2, 0.5):
        assert stats.binomtest(sum(one <= level for one in p), len(p), level, alternative="greater").pvalue > 1e-6


def test_the_p_value_is_that_of_all_lots(rng):
    answers = rng.normal(size=(COUNT, 4))
    answers[0] += 1.2
    scores = module._standardised(list(answers.T))
    sums = [sum(scores[lot, i] for i, lot in enumerate(lots)) for lots in itertools.product(range(COUNT), repeat=4)]
    exact = np.mean(np.array(sums) >= scores[0].sum() - 1e-9)
    found = judge_variants(answers)
    assert found.p_value == pytest.approx(exact, abs=5 * np.sqrt(exact * (1 - exact) / DRAWS) + 1 / DRAWS)
    many = rng.normal(size=(COUNT, 150)) + np.eye(COUNT)[:, [0]] * 0.15
    found = judge_variants(many)
    assert np.log10(found.p_value) == pytest.approx(np.log10(stats.norm.sf(found.lead)), abs=0.25)


def shown(rng, images: int, label: int = 1) -> list[VariantsOf]:
    """Variants that differ in brightness, so that a suspect can tell them apart."""
    return [
        VariantsOf(label, int(rng.integers(COUNT)), torch.from_numpy(rng.random((COUNT, 1, 8, 8))).float())
        for _ in range(images)
    ]


class Remembers:
    """A suspect that is surer of what it was trained on.

    Args:
        variants: that it is asked about.
        more: log-odds by which it is surer of the published ones.
    """

    def __init__(self, variants: list[VariantsOf], more: float):
        self.known = {v.images[v.published].numpy().tobytes() for v in variants}
        self.more, self.asked = more, 0

    def __call__(self, images: torch.Tensor) -> np.ndarray:
        self.asked += len(images)
        odds = np.array([8 * float(x.mean()) + self.more * (x.numpy().tobytes() in self.known) for x in images])
        p = 1 / (1 + np.exp(-odds))
        return np.stack([1 - p, p], axis=1)


def test_who_remembers_is_told_and_others_are_left_alone(rng):
    variants = shown(rng, 120)
    told = variant_test(Remembers(variants, 0.5), variants)
    assert told.p_value < 0.001 and told.images == 120 and told.lead > 4
    stranger = variant_test(Remembers(shown(rng, 120), 5.0), variants)
    assert stranger.p_value > 0.001
    # the other way round: surer of what was not published
    backwards = Remembers(variants, -0.5)
    left = variant_test(backwards, variants)
    assert (left.p_value, left.images, backwards.asked) == (1.0, HOPELESS_AFTER, HOPELESS_AFTER * COUNT)
    assert left.lead < 0


@pytest.mark.parametrize("answer", [0.0, 0.5, 1.0])
def test_who_answers_all_alike_is_not_accused(rng, answer):
    found = variant_test(lambda images: np.tile([1 - answer, answer], (len(images), 1)), shown(rng, 20))
    assert (found.p_value, found.lead) == (1.0, 0.0)


def test_answers_that_are_no_probabilities_are_refused(rng):
    with pytest.raises(MedmarkError, match="not probabilities"):
        variant_test(lambda images: np.full((len(images), 2), 0.9), shown(rng, 2))


def test_the_lot_is_even():
    places = [published_at(seed, f"image-{n}") for seed in range(10) for n in range(300)]
    assert stats.chisquare(np.bincount(places, minlength=COUNT)).pvalue > 1e-4


def test_damaged_variants_are_refused(rng, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    from medmark.components.dataset.codecs import encode_png

    image = encode_png(rng.integers(0, 255, (16, 16)).astype(np.uint8))
    row = {"image_id": "a", "label": 0, "variants": [image] * COUNT}
    write_variants(tmp_path, [row])
    ((label, published, images),) = read_variants(tmp_path, size=8, seed=3)
    assert (label, images.shape, images.dtype) == (0, (COUNT, 1, 8, 8), torch.float32)
    assert published == published_at(3, "a")
    for change in ({"variants": [image] * 8}, {"variants": [b"no image"] * COUNT}):
        pq.write_table(pa.Table.from_pylist([row | change], schema=VARIANTS_SCHEMA), tmp_path / VARIANTS)
        with pytest.raises(MedmarkError, match="unreadable variants.*restore the evidence"):
            list(read_variants(tmp_path, size=8, seed=3))
    (tmp_path / VARIANTS).write_bytes(b"PAR1")
    with pytest.raises(MedmarkError, match="unreadable variants"):
        list(read_variants(tmp_path, size=8, seed=3))
