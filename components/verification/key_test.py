"""Prove that a suspect knows the secret code of a mark: an exact test, whatever the suspect is.

The suspect answers about each query image clean and with *every* cell of the public table, in an order and with phases that
do not depend on the code. Under the null hypothesis, its training did not depend on the code, which was drawn with equal
chances from all codes (:func:`medmark.components.evidence.code.draw_code`). Then the code is independent of all that the
suspect will ever answer, so the rank of the own code among all codes is an exact p-value: for benign models of any
architecture, for models of another owner's release, for a suspect that answers at random or as it pleases. It needs no
benign model; whatever calibration they give is fixed before the code counts, and keeps it exact.

It does *not* hold if the code was not drawn at random (an owner who chooses the code that benign models happen to answer),
if the suspect or anything that it was trained on was chosen by someone who knows the code, or if the queries give the
code away. The images need not be independent; that is an assumption of :func:`explained_better` alone.

- :func:`key_test`: once, with all images.
- :func:`sequential_key_test`: at looks that were fixed beforehand, to stop early.
- :func:`explained_better`: whether another code explains the answers better. A release marked with a similar code makes a
  model answer to ours, too. The chance that codes are that similar is part of the p-value, but once it is seen, nobody may
  be accused.

Results hold the best code, which may be the secret one: keep them private. Their ``repr`` does not show it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations

import numpy as np
from medmark.components.base.errors import MedmarkError
from medmark.components.evidence.code import Code, code_bits, code_count
from medmark.components.verification.statistics import MIN_PAIRS, NOISE
from scipy import stats
from scipy.optimize import linear_sum_assignment

CLIP = 1e-4  # ours: a suspect that rounds to four digits and one that does not shall count the same
PRIOR_MODELS = 10  # ours: of 0 to 20, by simulation, see calibrated()
MOST_CODES = 5_000_000  # as many are enumerated
SAMPLED_CODES = 10_000_000  # drawn where there are more; no p-value below 1e-7 is ever needed
SAMPLE_SEED = 20  # public; the code does not depend on it
CHUNK = 250_000  # codes at a time
PLANNED_CODES = 20_000  # of power(): an alpha of 0.01 is 200 of them
SMALLEST_LOOK = 4  # ours: images


@dataclass(frozen=True, eq=False)
class CellAnswers:
    """What a suspect said of N query images, each clean and with each of the C cells of the table.

    Attributes:
        clean: (N, K) float64, class probabilities of the clean images.
        cells: (N, C, K) float64, those with each cell.
        marked: the marked classes, as indices into K, in the order of the code.

    Raises:
        MedmarkError: other shapes, no image, less than two cells or marked classes, or rows that are no probabilities: finite,
            not negative, with a sum of 1 up to 1e-3.
    """

    clean: np.ndarray
    cells: np.ndarray
    marked: tuple[int, ...]

    def __post_init__(self) -> None:
        clean, cells = np.asarray(self.clean, dtype=np.float64), np.asarray(self.cells, dtype=np.float64)
        if (
            clean.ndim != 2
            or cells.ndim != 3
            or not len(clean)
            or cells.shape != (len(clean), cells.shape[1], clean.shape[1])
        ):
            raise MedmarkError(
                f"answers of shape {clean.shape} without and {cells.shape} with cells; (N, K) and (N, C, K) are needed,"
                " for the same images and classes"
            )
        if cells.shape[1] < 2:
            raise MedmarkError(f"answers to {cells.shape[1]} cells; a table has at least two")
        if (
            len(set(self.marked)) != len(self.marked)
            or len(self.marked) < 2
            or not all(0 <= k < clean.shape[1] for k in self.marked)
        ):
            raise MedmarkError(
                f"marked classes {self.marked} of {clean.shape[1]}; at least two different ones of those are needed"
            )
        for rows in (clean, cells):
            if not np.isfinite(rows).all() or (rows < 0).any() or (np.abs(rows.sum(axis=-1) - 1) > 1e-3).any():
                raise MedmarkError(
                    "suspect's answers are not probabilities: rows must be finite, not negative and sum to 1"
                )
        object.__setattr__(self, "clean", np.clip(clean, 0.0, 1.0))
        object.__setattr__(self, "cells", np.clip(cells, 0.0, 1.0))


@dataclass(frozen=True)
class KeyTest:
    """Rank of the own code among all codes.

    Attributes:
        p_value: share of the codes whose statistic is at least the own code's; ties, up to rounding, count against accusing.
            Where codes were drawn, (1 + number of drawn codes with at least the own statistic) / (1 + drawn).
        resolution: the smallest p-value that can come out.
        bits: entropy of the code.
        statistic: of the own code: sum of the calibrated scores of its cells for their classes.
        rank: 1: no other code has a statistic this large.
        codes: compared with, the own one among them.
        enumerated: whether these are all codes.
        best: the code with the largest statistic of all. Private, and not part of ``repr``.
        best_statistic: its statistic.
    """

    p_value: float
    resolution: float
    bits: float
    statistic: float
    rank: int
    codes: int
    enumerated: bool
    best: Code = field(repr=False)
    best_statistic: float


@dataclass(frozen=True)
class SequentialKeyTest:
    """Where questioning stands after a look.

    Attributes:
        p_value: anytime-valid: the smallest of ``p_values``.
        p_values: after each look so far.
        ranks: of the own code at each look so far.
        resolution: the smallest p-value that can come out.
        codes: compared with, the own one among them.
        looks: planned.
    """

    p_value: float
    p_values: tuple[float, ...]
    ranks: tuple[int, ...]
    resolution: float
    codes: int
    looks: int


@dataclass(frozen=True)
class ExplainedBetter:
    """Whether another code explains the answers better than the own one.

    Attributes:
        p_value: of H0 "no other code does". If it is small, nobody may be accused with the own code.
        code: the code with the largest statistic over all images. Private, and not part of ``repr``.
        advantage: its mean statistic an image less that of the own code, 0 if it is the own one.
    """

    p_value: float
    code: Code = field(repr=False)
    advantage: float


def evidence_by_image(answers: CellAnswers, *, label_only: bool = False) -> np.ndarray:
    """Says how much each image speaks for each cell standing for each marked class.

    With probabilities: log P(class k), less the mean of that over the marked classes, with the cell, less the same of the
    clean image. Probabilities below 1e-4 count as 1e-4. What a texture does to all marked classes alike cancels, and so
    does what the suspect thinks of the image.

    Args:
        answers: of the suspect.
        label_only: in place of log P, 1 where the class alone is the most probable of all K, else 0.

    Returns:
        (N, C, m) for m marked classes; each row sums to 0. Without labels, in [-18.5, 18.5].
    """
    if label_only:
        clean, cells = _only_labels(answers.clean), _only_labels(answers.cells)
    else:
        clean, cells = np.log(answers.clean.clip(CLIP)), np.log(answers.cells.clip(CLIP))
    marked = list(answers.marked)
    change = cells[..., marked] - clean[:, None, marked]
    return change - change.mean(axis=-1, keepdims=True)


def scores(answers: CellAnswers, *, label_only: bool = False) -> np.ndarray:
    """Returns the mean of :func:`evidence_by_image` over the images, (C, m)."""
    return evidence_by_image(answers, label_only=label_only).mean(axis=0)


def scores_by_look(answers: CellAnswers, looks: Sequence[int], *, label_only: bool = False) -> np.ndarray:
    """Returns the scores after the first images of each look.

    Args:
        answers: in the order in which the images were asked.
        looks: numbers of images, ascending, as :func:`look_sizes` gives them; as many as the answers suffice for.
        label_only: see :func:`evidence_by_image`.

    Returns:
        (number of looks, C, m).

    Raises:
        MedmarkError: numbers that do not ascend from at least 1 to at most N.
    """
    sizes = np.asarray(looks, dtype=np.int64)
    if not len(sizes) or sizes[0] < 1 or sizes[-1] > len(answers.clean) or (np.diff(sizes) <= 0).any():
        raise MedmarkError(
            f"looks after {list(looks)} of {len(answers.clean)} images; ascending numbers of answered images are needed"
        )
    total = evidence_by_image(answers, label_only=label_only).cumsum(axis=0)
    return total[sizes - 1] / sizes[:, None, None]


def look_sizes(images: int) -> tuple[int, ...]:
    """After how many images to look: an eighth, a quarter, a half and all, none of them below 4.

    Doubling is arbitrary. Of models that are recognised in nine of ten audits, the first look decides for most, and the looks
    cost less than a point of power (benchmarks/results/key_test_error_rates.json).
    """
    if images < 1:
        raise MedmarkError(f"{images} images; a suspect is asked about at least one")
    sizes = {-(-images // part) for part in (8, 4, 2)}
    return tuple(sorted(size for size in sizes if SMALLEST_LOOK <= size < images)) + (images,)


def calibrated(scores: np.ndarray, benign: Sequence[np.ndarray]) -> np.ndarray:
    """Subtracts what benign models answer to each cell, and divides by how much they differ in it.

    Few benign models agree in some entries by chance, and those entries alone would then decide every rank: with 4 models,
    that hid a third of the marks in simulations. So a variance is moderated (Smyth 2004): averaged with the mean
    variance of all entries, which counts like 10 more models. If no benign model moves at all, nothing is divided.

    The p-value of :func:`key_test` is exact with any benign models, and without. They add power, where all models answer to
    some textures.

    Args:
        scores: (..., C, m), of the suspect.
        benign: of at least two models, each of the same shape, or (C, m) for all; none: the scores stay as they are.

    Raises:
        MedmarkError: one model, other shapes, or numbers that are not finite.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(scores).all():
        raise MedmarkError("scores are not finite; take them from the suspect's answers")
    if not len(benign):
        return scores
    if len(benign) < 2 or any(np.shape(other) not in (scores.shape, scores.shape[-2:]) for other in benign):
        raise MedmarkError(
            f"scores of shapes {[np.shape(other) for other in benign]} of benign models for {scores.shape}; at least two"
            " models with the same cells and classes are needed, or none"
        )
    panel = np.stack([np.asarray(other, dtype=np.float64) for other in benign])
    if not np.isfinite(panel).all():
        raise MedmarkError("scores of a benign model are not finite; take them from its answers")
    variance = panel.var(axis=0, ddof=1)
    prior = variance.mean(axis=(-2, -1), keepdims=True)
    moderated = (PRIOR_MODELS * prior + (len(panel) - 1) * variance) / (PRIOR_MODELS + len(panel) - 1)
    return (scores - panel.mean(axis=0)) / np.where(prior > NOISE**2, np.sqrt(moderated), 1.0)


def key_test(calibrated_scores: np.ndarray, code: Code) -> KeyTest:
    """Ranks the own code among all codes.

    If there are more than five million codes, the own one is ranked among ten million that are drawn with a public
    seed, in one or two seconds and 600 MB. To a suspect that depends on none of them, own and drawn codes are
    exchangeable, so this is exact, too.

    Args:
        calibrated_scores: (C, m), of :func:`calibrated`.
        code: the own.

    Raises:
        MedmarkError: scores that are not finite, or not for this code's classes and cells.
    """
    z = _checked(calibrated_scores, code, 2)
    own, all_codes, enumerated = _statistics(z[None], code)
    rank, best = _rank(all_codes[0], own[0], z), best_code(z, code.per_class)
    n = all_codes.shape[1]
    return KeyTest(
        p_value=rank / n,
        resolution=1 / n,
        bits=code_bits(len(z), code.classes, code.per_class),
        statistic=float(own[0]),
        rank=rank,
        codes=n,
        enumerated=enumerated,
        best=best,
        best_statistic=float(_statistic(z, best)),
    )


def sequential_key_test(calibrated_scores: np.ndarray, code: Code, *, looks: int) -> SequentialKeyTest:
    """Ranks the own code at looks fixed beforehand; questioning may stop at any of them, for any reason.

    A code's *standing* is its best rank at any look so far, the earlier look first among equals. The p-value after look t
    of L, where the own code has reached rank r, is the share of codes that stand at least as well, plus (L - t) (r - 1)
    codes: more cannot overtake it, because r - 1 at most have a better rank at any one look.

    Proof: the standing of all codes after look L depends on the suspect's answers alone, had it been asked everything, and
    of these the code is independent; so the share of codes that stand at least as well as the own one *then* is an exact
    p-value. A standing never gets worse and the addend counts every code that can still come in between, so the
    p-value after any look is at least that one, and so is the smallest of them, whenever one stops.

    It is never larger than Bonferroni's L times the smallest rank p-value, and costs nothing where the own code is first at
    the first look. A suspect that changes its answers, even knowing the looks, does not break it.

    Args:
        calibrated_scores: (t, C, m), of the looks so far, as :func:`scores_by_look` and :func:`calibrated` give them.
        code: the own.
        looks: planned, at least t.

    Raises:
        MedmarkError: scores that are not finite or not for this code's classes and cells, or more looks than planned.
    """
    z = _checked(calibrated_scores, code, 3)
    if not 1 <= len(z) <= looks:
        raise MedmarkError(f"{len(z)} looks of {looks}; look only as often as was planned beforehand")
    own, all_codes, _ = _statistics(z, code)
    n = all_codes.shape[1]
    ranks = [_rank(*of_look) for of_look in zip(all_codes, own, z, strict=True)]
    p_values = []
    for now in range(1, len(z) + 1):
        best = min(ranks[:now])
        reached = ranks.index(best)
        stands = np.zeros(n, dtype=bool)
        for look in range(now):
            stands |= _ranked_up_to(all_codes[look], best if look <= reached else best - 1, z[look])
        p_values.append(min(n, int(stands.sum()) + (looks - now) * (best - 1)) / n)
    return SequentialKeyTest(min(p_values), tuple(p_values), tuple(ranks), 1 / n, n, looks)


def explained_better(calibrated_evidence: np.ndarray, code: Code) -> ExplainedBetter:
    """Tests whether another code explains the answers better than the own one.

    The best code of every other image is compared with the own one on the images between, by a one-sided paired t-test, so
    that it owes nothing to having been chosen there; and the other way round. The p-value is twice the smaller of both.

    The t-test takes the images for independent. It errs when it is too sure only by sparing a suspect.

    Args:
        calibrated_evidence: (N, C, m) of :func:`evidence_by_image`, calibrated by (C, m) scores of the benign models.
        code: the own.

    Raises:
        MedmarkError: less than 20 images, or what :func:`key_test` raises.
    """
    z = _checked(calibrated_evidence, code, 3)
    if len(z) < 2 * MIN_PAIRS:
        raise MedmarkError(f"{len(z)} images; comparing codes needs at least {2 * MIN_PAIRS}")
    halves = z[::2], z[1::2]
    p_values = [
        _beats(best_code(one.mean(axis=0), code.per_class), code, other) for one, other in (halves, halves[::-1])
    ]
    mean = z.mean(axis=0)
    best = best_code(mean, code.per_class)
    advantage = max(0.0, float(_statistic(mean, best) - _statistic(mean, code)))
    return ExplainedBetter(min(1.0, 2 * min(p_values)), best, advantage)


def best_code(calibrated_scores: np.ndarray, per_class: int) -> Code:
    """Returns the code with the largest statistic of all, as an assignment of cells to classes.

    Args:
        calibrated_scores: (C, m).
        per_class: cells of each class.
    """
    classes = calibrated_scores.shape[1]
    cells, places = linear_sum_assignment(np.repeat(calibrated_scores, per_class, axis=1), maximize=True)
    of = places // per_class
    return Code(tuple(tuple(int(cell) for cell in np.sort(cells[of == k])) for k in range(classes)))


def power(
    shift: float,
    *,
    cells: int,
    classes: int,
    per_class: int,
    alpha: float = 0.01,
    simulations: int = 1000,
    seed: int = 0,
) -> float:
    """Returns the chance that :func:`key_test` gives a p-value of alpha or less, for planning.

    Scores are drawn from the normal distribution, independent between cells and with standard deviation 1, as between
    benign models; ranks are among 20,000 codes at most.

    Args:
        shift: mean calibrated score of the own cells for their class.
        cells, classes, per_class: see :func:`medmark.components.evidence.code.code_count`.
        alpha: level, from 0.001; 0.01 is that of :class:`medmark.components.verification.verdict.Thresholds`.
        simulations: the standard error is 1.6 points at most with 1,000. Arbitrary.
        seed: of the simulation.

    Raises:
        MedmarkError: no such code, or a level outside [0.001, 1).
    """
    if not 0.001 <= alpha < 1:
        raise MedmarkError(f"level {alpha} outside [0.001, 1); choose the level of the test")
    code_count(cells, classes, per_class)
    own = Code(tuple(tuple(range(k * per_class, (k + 1) * per_class)) for k in range(classes)))
    expected = np.zeros((cells, classes))
    for k, of_class in enumerate(own.cells):
        expected[list(of_class)] = -shift / (classes - 1)
        expected[list(of_class), k] = shift
    rng = np.random.default_rng(seed)
    found = 0
    for _ in range(simulations):
        noise = rng.normal(size=(1, cells, classes))
        z = expected + (noise - noise.mean(axis=-1, keepdims=True)) / np.sqrt(1 - 1 / classes)
        statistic, others, _ = _statistics(z, own, enumerated=PLANNED_CODES, sampled=PLANNED_CODES)
        found += _rank(others[0], statistic[0], z[0]) <= alpha * others.shape[1]
    return found / simulations


def _only_labels(probabilities: np.ndarray) -> np.ndarray:
    """1 where the class alone is the most probable one, else 0."""
    top = probabilities == probabilities.max(axis=-1, keepdims=True)
    return (top & (top.sum(axis=-1, keepdims=True) == 1)).astype(np.float64)


def _checked(calibrated_scores: np.ndarray, code: Code, dimensions: int) -> np.ndarray:
    z = np.asarray(calibrated_scores, dtype=np.float64)
    if z.ndim != dimensions or z.shape[-1] != code.classes or not np.isfinite(z).all():
        raise MedmarkError(
            f"scores of shape {z.shape} for a code of {code.classes} classes; finite ones of {dimensions} dimensions are"
            " needed, the last for the classes"
        )
    code_count(z.shape[-2], code.classes, code.per_class)
    if max(max(of_class) for of_class in code.cells) >= z.shape[-2]:
        raise MedmarkError(f"the code has cells beyond the {z.shape[-2]} of the table; take the table of this mark")
    return z


def _beats(other: Code, own: Code, images: np.ndarray) -> float:
    """Returns the p-value of H0 "the own code's mean statistic is at least the other's"."""
    difference = _statistic(images, other) - _statistic(images, own)
    mean, spread = difference.mean(), difference.std(ddof=1)
    if mean <= NOISE:
        return 1.0
    if spread < NOISE:  # the t statistic is undefined; this is the sign test
        return 0.5 ** len(difference)
    return float(stats.t.sf(mean / (spread / np.sqrt(len(difference))), len(difference) - 1))


@lru_cache(maxsize=1)
def _every_code(cells: int, classes: int, per_class: int) -> np.ndarray:
    """(n, classes * per_class) uint8, the cells of each code, class after class."""
    chosen = np.zeros((1, 0), dtype=np.uint8)
    left = np.arange(cells, dtype=np.uint8)[None]
    for _ in range(classes):
        picks = np.array(list(combinations(range(left.shape[1]), per_class)))
        others = np.array([np.setdiff1d(np.arange(left.shape[1]), pick) for pick in picks])
        picked = left[:, picks].reshape(-1, per_class)
        chosen = np.concatenate([np.repeat(chosen, len(picks), axis=0), picked], axis=1)
        left = left[:, others].reshape(len(chosen), -1)
    chosen.flags.writeable = False
    return chosen


@lru_cache(maxsize=1)
def _drawn_codes(cells: int, length: int, codes: int) -> np.ndarray:
    """(codes, length) uint8, each row drawn without replacement.

    The raw stream of the bit generator is the same in every version of numpy, unlike what is made of it.
    """
    stream = np.random.PCG64(SAMPLE_SEED)
    drawn = np.empty((codes, length), dtype=np.uint8)
    for start in range(0, codes, CHUNK):
        rows = np.arange(min(CHUNK, codes - start))
        left = np.tile(np.arange(cells, dtype=np.uint8), (len(rows), 1))
        for place in range(length):
            uniform = (stream.random_raw(len(rows)) >> np.uint64(11)) * 2.0**-53
            pick = place + (uniform * (cells - place)).astype(np.int64)
            drawn[start : start + len(rows), place] = left[rows, pick]
            left[rows, pick] = left[:, place]
    drawn.flags.writeable = False
    return drawn


def _sums(z: np.ndarray, codes: np.ndarray, out: np.ndarray) -> None:
    """Writes the statistics of codes (n, classes * per_class) for scores (L, C, m) into ``out`` (L, n)."""
    per_class = codes.shape[1] // z.shape[2]
    for start in range(0, len(codes), CHUNK):
        part = out[:, start : start + CHUNK]
        part[:] = 0.0
        for place, cell in enumerate(codes[start : start + CHUNK].T):
            part += z[:, :, place // per_class][:, cell]


def _statistic(z: np.ndarray, code: Code) -> np.ndarray:
    """The code's statistic for each of (..., C, m) scores, added up in the same order as in :func:`_sums`."""
    total = np.zeros(z.shape[:-2])
    for k, of_class in enumerate(code.cells):
        for cell in of_class:
            total += z[..., cell, k]
    return total


def _statistics(
    z: np.ndarray, code: Code, enumerated: int = MOST_CODES, sampled: int = SAMPLED_CODES
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Returns the own statistic (L,), those of the codes to compare with (L, n), the own among them, and if they are all."""
    own = _statistic(z, code)
    table = z.shape[1], code.classes, code.per_class
    if code_count(*table) <= enumerated:
        codes = _every_code(*table)
        values = np.empty((len(z), len(codes)))
        _sums(z, codes, values)
        return own, values, True
    codes = _drawn_codes(z.shape[1], code.classes * code.per_class, sampled)
    values = np.empty((len(z), len(codes) + 1))
    values[:, 0] = own
    _sums(z, codes, values[:, 1:])
    return own, values, False


def _rounding(z: np.ndarray) -> float:
    return NOISE * max(1.0, float(np.abs(z).max()))


def _rank(values: np.ndarray, own: float, z: np.ndarray) -> int:
    return int((values >= own - _rounding(z)).sum())


def _ranked_up_to(values: np.ndarray, rank: int, z: np.ndarray) -> np.ndarray:
    """(n,) whether :func:`_rank` of each is ``rank`` or less; of at most ``rank`` it is."""
    if rank >= len(values):
        return np.ones(len(values), dtype=bool)
    next_best = np.partition(values, len(values) - 1 - rank)[len(values) - 1 - rank]
    return next_best < values - _rounding(z)
