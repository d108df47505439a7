"""Question one suspect: a few images at a time, until its answers decide or no query is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medmark.components.base.errors import MedmarkError
from medmark.components.base.progress import track
from medmark.components.evidence.answers import Answers
from medmark.components.evidence.key_answers import KeyAnswers
from medmark.components.evidence.queries import QuerySet
from medmark.components.generator.key import KEYS, Key
from medmark.components.suspects.answer_store import StoredSuspect
from medmark.components.suspects.suspects import SuspectModel, UnopenedSuspect
from medmark.components.verification.exact_tests import KnownImages, ask_about_images
from medmark.components.verification.interrogation import interrogate
from medmark.components.verification.key_test import IMAGES, KeyTest, ask_image_by_image, sequential_key_test
from medmark.components.verification.sequential import SequentialResult, first, join, sequential_test
from medmark.components.verification.statistics import upper_rate
from medmark.components.verification.verdict import CLAIMS, Thresholds

CHUNK = 4  # images between two looks, each asked clean, with the mark and with the control mark; arbitrary


@dataclass
class Questioned:
    """One suspect after its questions.

    Attributes:
        suspect: the model.
        answers: to the queries that decided, or to all; None if there were none.
        result: where questioning stands; None without answers.
        asked: images that it was asked about this time.
        error: why it did not answer to the end, or None.
        key: rank of the key by its answers to waves; None: it was not asked about any.
        key_missing: why it was not, or did not answer to the end.
        images: whether it knows the published images; None: it was not asked about them, or did not answer to the end.
    """

    suspect: SuspectModel | UnopenedSuspect
    answers: Answers | None
    result: SequentialResult | None
    asked: int
    error: str | None
    key: KeyTest | None = None
    key_missing: str = "the key is asked for when all else suffices"
    images: KnownImages | None = None

    @property
    def e_values(self) -> dict[str, float]:
        """log10 of the e-values at the decision, by hypothesis."""
        return {name: float(path[-1]) for name, path in self.result.path.items()} if self.result else {}

    @property
    def weakest(self) -> str:
        """The claim with the smallest e-value."""
        return min((name for name in CLAIMS if name in self.e_values), key=self.e_values.__getitem__)

    @property
    def p_value(self) -> float:
        """p-value of "no mark": that of the weakest claim."""
        return float(min(1.0, 10.0 ** -self.e_values[self.weakest])) if self.result else 1.0


def question(
    suspect: StoredSuspect[SuspectModel],
    part: Callable[[int, int], QuerySet],
    benign_models: list[Answers],
    thresholds: Thresholds,
    *,
    among: int,
) -> Questioned:
    """Asks until the answers decide, the queries are used up, or the suspect fails.

    Args:
        suspect: whose answers are kept.
        part: the queries from one number to another, at its input size: a suspect that wants huge images must not make us
            draw all of them at once.
        benign_models: benign models' answers to all queries.
        thresholds: of the evidence.
        among: suspects in this audit; questioning goes on until the evidence suffices for all of them together.
    """
    worst, count = max(other.flips for other in benign_models), len(benign_models[0].is_clean)
    null_rate = upper_rate(worst, count)
    stricter = replace(thresholds, alpha=thresholds.alpha / among)
    chunks: list[Answers] = []
    result = error = None
    for start in track(range(0, count, CHUNK), f"asking {suspect.name}"):
        queries = part(start, start + CHUNK)
        try:
            chunks.append(interrogate(suspect, queries))
        except MedmarkError as failure:
            error = str(failure)
            break
        result = sequential_test(join(chunks), null_rate=null_rate, thresholds=stricter)
        if result.state != "running":
            break
    answers = first(join(chunks), result.queries) if result else None
    return Questioned(suspect.suspect, answers, result, suspect.asked, error)


def ask_for_images(
    questioned: Questioned, suspect: StoredSuspect[SuspectModel], evidence_dir: str | Path, evidence: dict[str, Any]
) -> Questioned:
    """Asks a suspect whether it knows the published images, whatever it answered to the mark; labels alone say nothing of that.

    Args:
        questioned: the suspect after :func:`question`.
        suspect: as there.
        evidence_dir: private evidence.
        evidence: content of its ``evidence.json``.
    """
    if questioned.error or questioned.suspect.label_only:
        return questioned
    try:
        found = ask_about_images(suspect, evidence_dir, evidence, suspect.suspect.size)
    except MedmarkError:
        return replace(questioned, asked=suspect.asked)
    return replace(questioned, images=found, asked=suspect.asked)


def ask_for_key(
    questioned: Questioned,
    suspect: StoredSuspect[SuspectModel],
    part: Callable[[int, int], QuerySet],
    images: int,
    benign_models: list[KeyAnswers],
    key: Key | None,
    thresholds: Thresholds,
    *,
    among: int,
) -> Questioned:
    """Asks a suspect about waves until the key is told or given up, if all else by the mark suffices to accuse it, or if what it knows of the
    published images is worth it.

    Args:
        questioned: the suspect after :func:`question` and :func:`ask_for_images`.
        suspect, part: as there.
        images: queries in the evidence.
        benign_models: benign models' answers to the waves; none in evidence of before marks had a key.
        key: of the mark; None likewise.
        thresholds, among: as there.
    """
    if questioned.error or questioned.result is None:
        return questioned
    if questioned.result.state != "suffices" and not (questioned.images and questioned.images.worth_the_key):
        return questioned
    if key is None:
        return replace(
            questioned,
            key_missing="this evidence is of before marks had a key: a model of another owner may answer to its mark; mark the data anew",
        )
    count = min(IMAGES, images)
    clean = (part(number, number + 1).clean[0] for number in track(range(count), f"asking {suspect.name} for the key"))
    try:
        found = sequential_key_test(
            ask_image_by_image(suspect, clean, part(0, 1).target),
            benign_models,
            key,
            images=count,
            passing=int(thresholds.key_alpha / among * KEYS),
            label_only=questioned.suspect.label_only,
        )
    except MedmarkError as failure:
        return replace(questioned, key_missing=str(failure), asked=suspect.asked)
    return replace(questioned, key=found, asked=suspect.asked)
