from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medmark.components.base.errors import MedmarkError
from medmark.components.evidence.code import Code, code_count
from medmark.components.verification.key_test import (
    CellAnswers,
    best_code,
    calibrated,
    evidence_by_image,
    explained_better,
    key_test,
    look_sizes,
    power,
    scores,
    scores_by_look,
    sequential_key_test,
)
from scipy import stats

TABLES = [(4, 2, 1), (6, 2, 1), (4, 3, 1), (5, 2, 2), (6, 3, 2)]


def codes_of(cells, classes, per_class):
    """All codes, by brute force."""
    found = {
        tuple(tuple(sorted(order[k * per_class : (k + 1) * per_class])) for k in range(classes))
        for order in permutations(range(cells), classes * per_class)
    }
    return [Code(cells) for cells in sorted(found)]


def statistic(z, code):
    return sum(z[cell, k] for k, of_class in enumerate(code.cells) for cell in of_class)


def reacting(code, strength, *, images=32, cells=12, classes=2, extra=0, noise=1.0, seed=0, spill=0.0):
    """Answers of a model that takes the code's cells, and a little their neighbours, for the code's classes.

    Args:
        strength: rise of the class's logit.
        spill: share of it that the two neighbours of a cell have.
    """
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1, (images, 1, classes + extra)) + rng.normal(0, noise, (images, cells + 1, classes + extra))
    for k, of_class in enumerate(code.cells):
        for cell in of_class:
            logits[:, 1 + cell, k] += strength
            for neighbour in ((cell - 1) % cells, (cell + 1) % cells):
                logits[:, 1 + neighbour, k] += spill * strength
    odds = np.exp(logits)
    probabilities = odds / odds.sum(axis=-1, keepdims=True)
    return CellAnswers(probabilities[:, 0], probabilities[:, 1:], tuple(range(classes)))


@st.composite
def tables(draw, looks=None):
    """A small table and scores with ties, (C, m) or (L, C, m)."""
    table = draw(st.sampled_from(TABLES[:4]))
    shape = (table[0], table[1]) if looks is None else (draw(looks), table[0], table[1])
    values = draw(st.lists(st.integers(-3, 3), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
    # tenths are not exact: ties must survive rounding
    return table, np.array(values).reshape(shape) / 10


@settings(max_examples=60, deadline=None)
@given(tables())
def test_rank_and_best_code_are_those_of_brute_force(drawn):
    table, z = drawn
    codes = codes_of(*table)
    all_statistics = np.array([statistic(z, code) for code in codes])
    for code, own in list(zip(codes, all_statistics, strict=True))[::5]:
        result = key_test(z, code)
        assert result.rank == (all_statistics > own - 1e-6).sum()
        assert result.p_value == result.rank / len(codes)
        assert (result.codes, result.enumerated) == (len(codes), True)
        assert result.resolution == 1 / len(codes)
        assert result.statistic == pytest.approx(own)
        assert result.best_statistic == pytest.approx(all_statistics.max())
        assert statistic(z, result.best) == pytest.approx(all_statistics.max())


@settings(max_examples=40, deadline=None)
@given(tables())
def test_of_all_codes_no_more_than_alpha_are_accused(drawn):
    """The scores are any; the code is drawn: P(p <= alpha) <= alpha, counted over every code."""
    table, z = drawn
    p_values = np.array([key_test(z, code).p_value for code in codes_of(*table)])
    for alpha in np.unique(p_values):
        assert (p_values <= alpha).mean() <= alpha + 1e-12


def test_without_ties_every_rank_is_taken_once():
    z = np.random.default_rng(0).normal(size=(6, 3))
    ranks = [key_test(z, code).rank for code in codes_of(6, 3, 2)]
    assert sorted(ranks) == list(range(1, code_count(6, 3, 2) + 1))


def test_a_suspect_that_does_not_react_is_not_accused():
    """All codes tie."""
    assert key_test(np.zeros((12, 2)), Code(((3,), (7,)))).p_value == 1.0


@pytest.mark.parametrize("label_only", [False, True])
@pytest.mark.parametrize("cells", [((3,), (7,)), ((1, 8), (0, 5)), ((2,), (5,), (9,))])
def test_a_model_of_the_release_is_recognised(cells, label_only):
    code = Code(cells)
    answers = reacting(code, 6.0, classes=len(cells), extra=1)
    result = key_test(scores(answers, label_only=label_only), code)
    assert result.p_value == result.resolution
    assert result.best == code
    swapped = Code(cells[1:] + cells[:1])
    assert key_test(scores(answers, label_only=label_only), swapped).p_value > 0.5
    assert str(cells) not in repr(result) and "Code" not in repr(result)


def test_many_codes_are_sampled_and_agree_with_counting_all():
    cells, per_class = 28, 3
    z = np.random.default_rng(1).normal(size=(cells, 2))
    code = best_code(z, per_class)
    moved = Code((code.cells[0], tuple(cell for cell in range(cells) if cell not in code.cells[0])[:3]))
    triples = np.array(list(combinations(range(cells), per_class)))
    bits = (np.uint64(1) << triples.astype(np.uint64)).sum(axis=1, dtype=np.uint64)
    apart = (bits[:, None] & bits[None]) == 0
    assert apart.sum() == code_count(cells, 2, per_class) > 5_000_000
    sums = z[triples, 0].sum(axis=1)[:, None] + z[triples, 1].sum(axis=1)[None]
    share = (apart & (sums >= statistic(z, moved) - 1e-9)).sum() / apart.sum()
    result = key_test(z, moved)
    assert not result.enumerated and result.codes == 10_000_001
    assert abs(result.p_value - share) < 4 * np.sqrt(share * (1 - share) / 1e7)
    assert result == key_test(z, moved)
    assert sequential_key_test(z[None], moved, looks=1).p_value == result.p_value
    first = key_test(z, code)
    assert first.best == code and first.rank <= 1 + stats.binom.ppf(0.9999, 10_000_000, 1 / apart.sum())


def test_the_own_code_counts_among_those_drawn():
    z = np.zeros((40, 2))
    z[:4, 0] = z[4:8, 1] = 1.0
    result = key_test(z, Code(((0, 1, 2, 3), (4, 5, 6, 7))))
    assert result.rank == 1 and result.p_value == result.resolution == 1 / 10_000_001


# --- scores


def test_scores_by_hand():
    clean = np.array([[0.5, 0.25, 0.25]])
    cells = np.array([[[0.5, 0.25, 0.25], [0.8, 0.1, 0.1], [0.0, 0.5, 0.5]]])
    z = scores(CellAnswers(clean, cells, (0, 1)))
    # log(0.8 / 0.1) - log(0.5 / 0.25) = log 4, half of it for each class; 0 counts as 1e-4
    low = np.log(1e-4 / 0.5) - np.log(2)
    assert z == pytest.approx(np.array([[0, 0], [np.log(4) / 2, -np.log(4) / 2], [low / 2, -low / 2]]))
    reordered = scores(CellAnswers(clean, cells, (1, 0)))
    assert reordered == pytest.approx(z[:, ::-1])


def test_labels_by_hand():
    clean = np.array([[0.6, 0.2, 0.2]])
    cells = np.array([[[0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.4, 0.4, 0.2], [0.4, 0.2, 0.4], [0.2, 0.2, 0.6]]])
    z = scores(CellAnswers(clean, cells, (0, 1)), label_only=True)
    # ties and the third class speak for neither, so that the clean image's label is all that is lost
    assert z == pytest.approx(np.array([[0, 0], [-1, 1], [-0.5, 0.5], [-0.5, 0.5], [-0.5, 0.5]]))


@pytest.mark.parametrize("label_only", [False, True])
def test_what_helps_all_marked_classes_alike_says_nothing(label_only):
    clean = np.array([[0.2, 0.2, 0.6]])
    cells = np.array([[[0.2, 0.2, 0.6], [0.45, 0.45, 0.1]]])
    assert scores(CellAnswers(clean, cells, (0, 1)), label_only=label_only) == pytest.approx(np.zeros((2, 2)))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 4), st.booleans())
def test_scores_of_an_image_sum_to_zero_and_their_mean_is_the_score(seed, classes, label_only):
    code = Code(tuple((k,) for k in range(classes)))
    answers = reacting(code, 2.0, images=9, cells=5, classes=classes, extra=1, seed=seed)
    evidence = evidence_by_image(answers, label_only=label_only)
    assert evidence.shape == (9, 5, classes)
    assert evidence.sum(axis=-1) == pytest.approx(np.zeros((9, 5)))
    assert scores(answers, label_only=label_only) == pytest.approx(evidence.mean(axis=0))
    by_look = scores_by_look(answers, (2, 9), label_only=label_only)
    assert by_look[0] == pytest.approx(evidence[:2].mean(axis=0))
    assert by_look[1] == pytest.approx(evidence.mean(axis=0))


def uniform(images=3, cells=4, classes=3):
    return np.full((images, classes), 1 / classes), np.full((images, cells, classes), 1 / classes)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.1, 1.1])
@pytest.mark.parametrize("which", [0, 1])
def test_answers_that_are_no_probabilities_are_refused(which, bad):
    arrays = uniform()
    arrays[which][(1,) * arrays[which].ndim] = bad
    with pytest.raises(MedmarkError, match="not probabilities"):
        CellAnswers(*arrays, (0, 1))


@pytest.mark.parametrize(
    ("clean", "cells"),
    [
        ((3, 3), (3, 3)),
        ((3, 3), (2, 4, 3)),
        ((3, 3), (3, 4, 2)),
        ((3,), (3, 4, 3)),
        ((0, 3), (0, 4, 3)),
        ((3, 3), (3, 1, 3)),
    ],
)
def test_answers_of_wrong_shapes_are_refused(clean, cells):
    with pytest.raises(MedmarkError, match="answers"):
        CellAnswers(np.full(clean, 1 / 3), np.full(cells, 1 / cells[-1]), (0, 1))


@pytest.mark.parametrize("marked", [(), (0,), (0, 0), (0, 3), (-1, 0)])
def test_marked_classes_are_checked(marked):
    with pytest.raises(MedmarkError, match="marked classes"):
        CellAnswers(*uniform(), marked)


def test_sums_that_rounding_explains_are_accepted():
    clean, cells = uniform()
    answers = CellAnswers(clean * 1.0005, cells, (0, 1))
    assert answers.clean == pytest.approx(clean, abs=1e-3)
    one_hot = np.zeros((3, 3))
    one_hot[:, 0] = 1.0005
    assert CellAnswers(one_hot, cells, (0, 1)).clean.max() == 1.0


# --- calibration


def test_without_benign_models_scores_stay_as_they_are():
    z = np.random.default_rng(0).normal(size=(5, 2))
    assert np.array_equal(calibrated(z, []), z)


def test_calibration_by_hand():
    benign = [np.array([[1.0, -1.0], [0.0, 0.0]]), np.array([[3.0, -3.0], [0.0, 0.0]])]
    z = calibrated(np.array([[4.0, -4.0], [1.0, -1.0]]), benign)
    # variances 2, 2, 0, 0: their mean counts 10 times, each itself 2 - 1 times
    moved, still = np.sqrt((10 * 1 + 2) / 11), np.sqrt(10 / 11)
    assert z == pytest.approx(np.array([[2 / moved, -2 / moved], [1 / still, -1 / still]]))


def test_an_entry_in_which_few_models_agree_by_chance_does_not_decide():
    benign = list(np.random.default_rng(0).normal(0, 0.3, (4, 40, 2)))
    for other in benign:
        other[11] = benign[0][11]  # all agree
    z = np.zeros((40, 2))
    z[11] += benign[0][11] + [0.6, -0.6]
    z[3] += [1.5, -1.5]
    z[7] += [-1.5, 1.5]
    assert best_code(calibrated(z, benign), 1).cells == ((3,), (7,))


def test_benign_models_that_never_move_only_shift():
    z = calibrated(np.ones((3, 2)), [np.full((3, 2), 0.25)] * 4)
    assert np.array_equal(z, np.full((3, 2), 0.75))


def test_images_and_looks_are_calibrated_like_their_mean():
    rng = np.random.default_rng(0)
    evidence, benign = rng.normal(size=(7, 4, 2)), list(rng.normal(size=(3, 4, 2)))
    assert calibrated(evidence, benign).mean(axis=0) == pytest.approx(calibrated(evidence.mean(axis=0), benign))
    by_look = [rng.normal(size=(7, 4, 2)) for _ in range(3)]
    assert calibrated(evidence, by_look)[5] == pytest.approx(calibrated(evidence[5], [other[5] for other in by_look]))


@settings(max_examples=30, deadline=None)
@given(tables(), st.integers(0, 1000), st.integers(2, 4))
def test_any_calibration_keeps_the_test_exact(drawn, seed, models):
    table, raw = drawn
    benign = list(np.random.default_rng(seed).standard_t(1, size=(models, *raw.shape)))
    p_values = np.array([key_test(calibrated(raw, benign), code).p_value for code in codes_of(*table)])
    for alpha in np.unique(p_values):
        assert (p_values <= alpha).mean() <= alpha + 1e-12


def test_calibration_finds_the_code_beneath_textures_that_every_model_answers():
    code = Code(((5,), (7,)))
    shortcuts = np.zeros((12, 2))
    shortcuts[:4] = [5.0, -5.0]
    rng = np.random.default_rng(0)
    benign = [shortcuts + rng.normal(0, 0.3, (12, 2)) for _ in range(6)]
    own = shortcuts + rng.normal(0, 0.3, (12, 2))
    own[5] += [2.0, -2.0]
    own[7] += [-2.0, 2.0]
    assert key_test(own, code).p_value > 0.02
    assert key_test(calibrated(own, benign), code).rank == 1


@pytest.mark.parametrize("benign", [[np.zeros((4, 2))], [np.zeros((4, 2)), np.zeros((4, 3))], [np.zeros((5, 2))] * 2])
def test_other_models_are_refused(benign):
    with pytest.raises(MedmarkError, match="benign models"):
        calibrated(np.zeros((4, 2)), benign)


def test_numbers_that_are_not_finite_are_refused():
    bad = np.full((4, 2), np.nan)
    with pytest.raises(MedmarkError, match="not finite"):
        calibrated(bad, [])
    with pytest.raises(MedmarkError, match="benign model are not finite"):
        calibrated(np.zeros((4, 2)), [bad, bad])
    for test in (
        lambda: key_test(bad, Code(((0,), (1,)))),
        lambda: sequential_key_test(bad[None], Code(((0,), (1,))), looks=1),
        lambda: explained_better(np.tile(bad, (20, 1, 1)), Code(((0,), (1,)))),
    ):
        with pytest.raises(MedmarkError, match="finite ones"):
            test()


def test_a_code_of_another_table_is_refused():
    with pytest.raises(MedmarkError, match="beyond the 4") as refused:
        key_test(np.zeros((4, 2)), Code(((0,), (17,))))
    assert "17" not in str(refused.value)
    with pytest.raises(MedmarkError, match="2 classes"):
        key_test(np.zeros((4, 3)), Code(((0,), (1,))))


# --- looks


@settings(max_examples=60, deadline=None)
@given(tables(looks=st.integers(1, 5)))
def test_whenever_one_stops_no_more_than_alpha_are_accused(drawn):
    """The suspect is any, and may change from look to look: counted over every code, for every level."""
    table, z = drawn
    codes, looks = codes_of(*table), len(z)
    results = [sequential_key_test(z, code, looks=looks) for code in codes]
    p_values = np.array([result.p_value for result in results])
    for alpha in np.unique([result.p_values for result in results]):
        assert (p_values <= alpha).mean() <= alpha + 1e-12


@settings(max_examples=40, deadline=None)
@given(tables(looks=st.integers(1, 5)))
def test_a_look_depends_on_nothing_later(drawn):
    table, z = drawn
    code = codes_of(*table)[3]
    whole = sequential_key_test(z, code, looks=len(z))
    for now in range(1, len(z) + 1):
        part = sequential_key_test(z[:now], code, looks=len(z))
        assert part.p_values == whole.p_values[:now]
        assert part.p_value == min(part.p_values)
        assert part.ranks[-1] == key_test(z[now - 1], code).rank
        # Bonferroni
        assert part.p_values[-1] <= min(1.0, len(z) * min(part.ranks) / part.codes)


def test_the_last_look_is_the_exact_rank_of_standings():
    z = np.random.default_rng(3).normal(size=(3, 5, 2))
    codes = codes_of(5, 2, 2)
    ranks = np.array([[key_test(of_look, code).rank for of_look in z] for code in codes])
    standing = [(row.min(), row.argmin()) for row in ranks]
    for code, own in zip(codes, standing, strict=True):
        expected = sum(other <= own for other in standing) / len(codes)
        assert sequential_key_test(z, code, looks=3).p_values[-1] == expected


def test_first_at_the_first_look_costs_nothing():
    code = Code(((3,), (7,)))
    z = np.zeros((1, 40, 2))
    z[0, 3, 0] = z[0, 7, 1] = 1.0
    assert sequential_key_test(z, code, looks=8).p_value == 1 / 1560


def test_a_suspect_that_points_at_another_code_at_each_look_accuses_four_of_1560():
    """Looking at each rank alone would do so at 1 / 1560."""
    z = np.zeros((4, 40, 2))
    codes = [Code(((look,), (look + 20,))) for look in range(4)]
    for look, code in enumerate(codes):
        z[look, code.cells[0][0], 0] = z[look, code.cells[1][0], 1] = 1.0
    results = [sequential_key_test(z, code, looks=4) for code in codes]
    assert [result.ranks.index(1) for result in results] == [0, 1, 2, 3]
    assert [result.p_values[look] for look, result in enumerate(results)] == [k / 1560 for k in (1, 2, 3, 4)]


@pytest.mark.parametrize(("given", "planned"), [(3, 2), (0, 2)])
def test_more_looks_than_planned_are_refused(given, planned):
    with pytest.raises(MedmarkError, match=f"{given} looks of {planned}"):
        sequential_key_test(np.zeros((given, 4, 2)), Code(((0,), (1,))), looks=planned)


@pytest.mark.parametrize(
    ("images", "sizes"), [(64, (8, 16, 32, 64)), (50, (7, 13, 25, 50)), (16, (4, 8, 16)), (5, (5,)), (1, (1,))]
)
def test_look_sizes(images, sizes):
    assert look_sizes(images) == sizes


@pytest.mark.parametrize("looks", [(), (0, 3), (3, 3), (4, 2), (3, 33)])
def test_looks_that_cannot_be_are_refused(looks):
    with pytest.raises(MedmarkError, match="looks after"):
        scores_by_look(reacting(Code(((3,), (7,))), 1.0), looks)


def test_no_image_has_no_looks():
    with pytest.raises(MedmarkError, match="0 images"):
        look_sizes(0)


# --- other owners


@pytest.mark.parametrize("theirs", [((4,), (7,)), ((2,), (8,)), ((3,), (9,))])
def test_a_model_of_another_owner_with_a_similar_code_is_spared(theirs):
    ours = Code(((3,), (7,)))
    evidence = evidence_by_image(reacting(Code(theirs), 4.0, images=60, spill=0.5))
    assert key_test(evidence.mean(axis=0), ours).p_value < 0.2  # it answers to ours, too
    better = explained_better(evidence, ours)
    assert better.p_value < 0.01
    assert better.code.cells == theirs and better.advantage > 0
    assert "Code" not in repr(better)


@pytest.mark.parametrize("cells", [((3,), (7,)), ((1, 8), (4, 11))])
def test_a_model_of_our_release_is_not(cells):
    ours = Code(cells)
    for seed in range(10):
        better = explained_better(evidence_by_image(reacting(ours, 4.0, images=60, spill=0.5, seed=seed)), ours)
        assert better.p_value > 0.5
        assert better.code == ours and better.advantage == 0


def test_the_best_of_many_codes_owes_nothing_to_chance():
    """No code explains these answers: the best of 1,560 always looks better, and the test must not be fooled."""
    rng = np.random.default_rng(0)
    code = Code(((3,), (7,)))
    p_values = []
    for _ in range(400):
        z = rng.normal(size=(40, 40, 1))
        p_values.append(explained_better(np.concatenate([z, -z], axis=2), code).p_value)
    for alpha in (0.01, 0.05, 0.2):
        assert stats.binomtest(sum(p <= alpha for p in p_values), 400, alpha, alternative="greater").pvalue > 1e-3


def test_answers_alike_for_all_images_are_weighed_by_their_number():
    z = np.zeros((20, 6, 2))
    z[:, 0, 0] = z[:, 1, 1] = 1.0
    assert explained_better(z, Code(((2,), (3,)))).p_value == 2 * 0.5**10
    assert explained_better(z, Code(((0,), (1,)))).p_value == 1.0
    assert explained_better(np.zeros((20, 6, 2)), Code(((2,), (3,)))).p_value == 1.0


def test_few_images_are_refused():
    with pytest.raises(MedmarkError, match="19 images"):
        explained_better(np.zeros((19, 6, 2)), Code(((2,), (3,))))


# --- planning


@pytest.mark.parametrize("table", [(12, 2, 1), (40, 2, 2)])
def test_power_agrees_with_the_test_itself(table):
    cells, classes, per_class = table
    code = Code(tuple(tuple(range(k * per_class, (k + 1) * per_class)) for k in range(classes)))
    rng = np.random.default_rng(9)
    found = 0
    for _ in range(300):
        half = rng.normal(size=cells)
        z = np.stack([half, -half], axis=1)
        for k, of_class in enumerate(code.cells):
            z[list(of_class), k] += 1.5
            z[list(of_class), 1 - k] -= 1.5
        found += key_test(z, code).p_value <= 0.05
    planned = power(1.5, cells=cells, classes=classes, per_class=per_class, alpha=0.05)
    assert abs(planned - found / 300) < 4 * np.sqrt(0.25 / 300)


def test_power_without_a_mark_is_alpha_and_grows_with_the_mark():
    powers = [power(shift, cells=24, classes=2, per_class=1, alpha=0.05) for shift in (0.0, 1.0, 2.0, 5.0)]
    assert stats.binomtest(round(powers[0] * 1000), 1000, 0.05).pvalue > 1e-3
    assert powers == sorted(powers) and powers[-1] > 0.99


@pytest.mark.parametrize("alpha", [0.0, 1e-4, 1.0, np.nan])
def test_levels_beyond_planning_are_refused(alpha):
    with pytest.raises(MedmarkError, match="level"):
        power(1.0, cells=24, classes=2, per_class=1, alpha=alpha)
