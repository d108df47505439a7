"""Ask a suspect no more than it takes: evidence that may be looked at after every query.

A fixed test holds for the number of queries that was set beforehand; looking at it after every query and stopping when it
is significant accuses too often (``peeking`` in benchmarks/results/sequential_savings.json). Here each hypothesis is
given a fortune that bets against it (Waudby-Smith and Ramdas 2024). Under the hypothesis the fortune, or e-value, does not
grow in expectation, whatever came before, so the chance that it *ever* reaches 1 / alpha is alpha at most (Ville). A
suspect may be asked in chunks of any size, and questioning may stop or go on for any reason.

What a decision here means:

- ``suffices``: at level alpha, the mean delta-P over the images that the queries were drawn from is more than tau, so is the
  delta-P beyond that of the control mark, and flips to the target outnumber those away from it by more than benign models
  show. It does *not* say that the suspect saw the data: rank, control and prior commitment are still needed, on the
  queries used (:func:`first`).
- ``against``: at level alpha, the mean delta-P is less than :data:`GUILTY`. An adversary with a smaller delta-P has no such promise.
- ``running``: neither. If no query is left, the fixed verdict may still clear the suspect, but not accuse it.

Of the proofs in :func:`medmark.components.verification.verdict.decide`, the bound for any shape stays valid at the time of
stopping: its p-value is 1 / e of the same bets. The t-test, the signed-rank test, the exact label tests and the rank of the
mean delta-P do not: chance picks the moment when they look best. Demanding them as well can only acquit, but none of them
is proof on its own. The control mark's silence means less after few queries; the e-value of the contrast is the proof.
For the rank, :func:`rank_stopped` compares whole procedures and is valid.

Queries must come in an order that has nothing to do with the images, the same for all models; the evidence's is random.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from medmark.components.base.errors import MedmarkError
from medmark.components.evidence.answers import Answers
from medmark.components.verification.statistics import BETS, MIN_PAIRS, Rank, conformal_p_value, probabilities
from medmark.components.verification.verdict import GUILTY, Thresholds


@dataclass(frozen=True)
class SequentialResult:
    """Where questioning stands.

    Attributes:
        state: ``running``, ``suffices`` or ``against``; see the module.
        queries: images used: up to the decision, or all that were given.
        path: log10 of the e-values after each of them, (queries,) for each of ``effect``, ``contrast`` (if there is a
            control mark), ``labels`` and ``against``. 2 is 1 / alpha for alpha 0.01.
    """

    state: str
    queries: int
    path: dict[str, np.ndarray]


def log_wealth(values: np.ndarray, null: float) -> np.ndarray:
    """Returns the natural logarithm of the e-value against H0 "the mean is at most ``null``" after each value.

    The same mixture of fixed bets as in :func:`medmark.components.verification.statistics.bounded_mean_p_value`:
    exp(-last) is that p-value wherever it is less than 1, so stopping and verdict cannot disagree. Bets that adapt to the
    values seen do no better by much: aGRAPA saves one to four queries, but recognises 86 instead of 90 % of weak adversaries,
    and the online Newton step needs half as many again (``strategies`` in benchmarks/results/sequential_savings.json).

    Args:
        values: (..., N) in [-1, 1], in the order in which they came. H0 needs no more than that the mean of each, given
            those before it, is at most ``null``: a suspect that changes its behaviour meanwhile does not break it.
        null: in (-1, 1].

    Returns:
        (..., N).

    Raises:
        MedmarkError: a value outside [-1, 1], or ``null`` outside (-1, 1].
    """
    values = np.asarray(values, dtype=np.float64)
    if not (np.abs(values) <= 1).all() or not -1 < null <= 1:  # NaN is not <= 1 either
        raise MedmarkError(f"values or null {null} outside [-1, 1]; give differences of two probabilities")
    grown = np.log1p(np.multiply.outer(BETS, (values - null) / (1 + null))).cumsum(axis=-1)
    return np.logaddexp.reduce(grown, axis=0) - np.log(len(BETS))


def sequential_test(answers: Answers, *, null_rate: float, thresholds: Thresholds) -> SequentialResult:
    """Says whether the answers so far decide, and after which of them they first did.

    Call it after each chunk with all answers so far (:func:`join`); what follows the first decision is ignored, so the
    size of chunks does not matter. ``against`` wins a tie.

    One e-value covers both label tests of :func:`medmark.components.verification.statistics.label_only`: if flips to
    the target less flips away from it are more than ``null_rate`` in the mean, the former exceed both the latter and
    ``null_rate``.

    ``Thresholds.min_queries`` is about the power of fixed tests and plays no part: e-values are valid after any number,
    and with tau 0.2 and alpha 0.01 the fortune cannot reach 1 / alpha before 13 queries. Nothing is decided before
    10 queries, because the other tests refuse fewer.

    Args:
        answers: the suspect's, in the order of the queries.
        null_rate: chance that a benign model flips an image to the target. Fixed before the suspect is asked:
            :func:`medmark.components.verification.statistics.upper_rate` of the worst benign model over *all* queries.
        thresholds: ``alpha`` and ``tau`` are used.

    Raises:
        MedmarkError: arrays of different lengths, values that are not probabilities or labels that are not bool, a rate
            outside [0, 1], or a tau of ``GUILTY`` or more.
    """
    if not 0 <= null_rate <= 1:
        raise MedmarkError(f"null rate {null_rate} outside [0, 1]; measure it on the benign models")
    p_clean, p_marked, p_control = _checked(answers)
    logs = _effect_and_against(p_clean, p_marked, thresholds)
    if p_control is not None:
        logs["contrast"] = log_wealth(p_marked - p_control, thresholds.tau)
    logs["labels"] = log_wealth(answers.is_marked.astype(float) - answers.is_clean, null_rate)
    needed = -np.log(thresholds.alpha)
    against = logs["against"] >= needed
    suffices = np.min([log for name, log in logs.items() if name != "against"], axis=0) >= needed
    queries = _first_decision(against | suffices)
    used = len(p_clean) if queries is None else queries
    state = "running" if queries is None else "against" if against[queries - 1] else "suffices"
    return SequentialResult(state, used, {name: log[:used] / np.log(10) for name, log in logs.items()})


def rank_stopped(suspect: Answers, benign_models: list[Answers], *, thresholds: Thresholds) -> Rank:
    """Ranks a suspect among benign models that undergo the same procedure, each with its own time of stopping.

    Ranking the suspect's delta-P at *its* time of stopping would be unfair: the benign models' answers were not stopped
    when they looked worst (``rank`` in benchmarks/results/sequential_savings.json: 7.6 % at a level of 5 %). So each model, the suspect too, is followed until the effect alone decides for it (e-value
    of "delta-P beyond tau" or of "delta-P below GUILTY" at 1 / alpha, or no query left), and the growth of the former, log e
    per query, is ranked. This depends on a model's own answers only, so that a suspect like the benign models is
    exchangeable with them, and P(p <= a) <= a for every a. :func:`sequential_test` never stops before the effect decides,
    so a stopped suspect has been asked enough.

    Args:
        suspect: its answers until it was stopped, or more.
        benign_models: answers of models trained without the mark to the same queries in the same order, all that the
            suspect could have been asked.
        thresholds: ``alpha`` and ``tau`` are used.

    Returns:
        p-value and resolution, see :func:`medmark.components.verification.statistics.conformal_p_value`.

    Raises:
        MedmarkError: no benign model, benign models with different numbers of answers, or a suspect that was
            stopped while undecided, whose rank would depend on who stopped it.
    """
    if not benign_models:
        raise MedmarkError("no benign model to rank the suspect among; train at least one without the mark")
    lengths = {len(other.p_clean) for other in benign_models}
    if len(lengths) != 1:
        raise MedmarkError(f"benign models answered {sorted(lengths)} queries; ask all of them all queries")
    growth, decided = _growth(suspect, thresholds)
    asked, horizon = len(suspect.p_clean), lengths.pop()
    if asked > horizon or (asked < horizon and not decided):
        raise MedmarkError(
            f"suspect answered {asked} queries, decided: {decided}, the benign models {horizon}; ask it until it is"
            " decided or all queries are used"
        )
    return conformal_p_value(growth, np.array([_growth(other, thresholds)[0] for other in benign_models]))


def join(chunks: list[Answers]) -> Answers:
    """Joins answers to several chunks of queries.

    Raises:
        MedmarkError: no chunk, or some with and some without a control mark.
    """
    if len({chunk.p_control is None for chunk in chunks}) != 1:
        raise MedmarkError(f"{len(chunks)} chunks of answers, not all alike in control marks; ask each query alike")
    controls = [chunk.p_control for chunk in chunks if chunk.p_control is not None]
    return Answers(
        p_clean=np.concatenate([chunk.p_clean for chunk in chunks]),
        p_marked=np.concatenate([chunk.p_marked for chunk in chunks]),
        p_control=np.concatenate(controls) if controls else None,
        is_clean=np.concatenate([chunk.is_clean for chunk in chunks]),
        is_marked=np.concatenate([chunk.is_marked for chunk in chunks]),
    )


def first(answers: Answers, queries: int) -> Answers:
    """Takes the answers to the first ``queries`` queries: what the other proofs look at after an early decision."""
    return Answers(
        p_clean=answers.p_clean[:queries],
        p_marked=answers.p_marked[:queries],
        p_control=None if answers.p_control is None else answers.p_control[:queries],
        is_clean=answers.is_clean[:queries],
        is_marked=answers.is_marked[:queries],
    )


def _checked(answers: Answers) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    p_clean = probabilities(answers.p_clean, "clean scores")
    p_marked = probabilities(answers.p_marked, "marked scores")
    p_control = None if answers.p_control is None else probabilities(answers.p_control, "control scores")
    labels = (np.asarray(answers.is_clean), np.asarray(answers.is_marked))
    if any(column.dtype != bool or column.ndim != 1 for column in labels):
        raise MedmarkError("labels are not one bool an image; say for each whether the target is the suspect's answer")
    lengths = [len(column) for column in (p_clean, p_marked, p_control, *labels) if column is not None]
    if len(set(lengths)) != 1:
        raise MedmarkError(f"answers of different lengths {lengths}; each image needs every answer")
    return p_clean, p_marked, p_control


def _effect_and_against(p_clean: np.ndarray, p_marked: np.ndarray, thresholds: Thresholds) -> dict[str, np.ndarray]:
    if thresholds.tau >= GUILTY:
        raise MedmarkError(
            f"tau {thresholds.tau:g} leaves nothing between benign and guilty ({GUILTY:g}); choose a smaller tau"
        )
    difference = p_marked - p_clean
    return {"effect": log_wealth(difference, thresholds.tau), "against": log_wealth(-difference, -GUILTY)}


def _first_decision(decided: np.ndarray) -> int | None:
    """Returns the number of queries at the first True, not below the number that all other tests need."""
    late = np.flatnonzero(decided[MIN_PAIRS - 1 :])
    return int(late[0]) + MIN_PAIRS if len(late) else None


def _growth(answers: Answers, thresholds: Thresholds) -> tuple[float, bool]:
    """Returns log e of the effect per query when the effect decides, or at the end; and whether it decided."""
    p_clean, p_marked, _ = _checked(answers)
    if not len(p_clean):
        raise MedmarkError("a model without answers has no rank; ask it the queries")
    logs = _effect_and_against(p_clean, p_marked, thresholds)
    queries = _first_decision(np.maximum(logs["effect"], logs["against"]) >= -np.log(thresholds.alpha))
    used = len(p_clean) if queries is None else queries
    return float(logs["effect"][used - 1]) / used, queries is not None
