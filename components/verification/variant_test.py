"""Prove that a suspect learned from the published images: an exact test, whatever the suspect is.

Each marked image could have been published with any of many waves; a lot drew one. The suspect is asked about the image as it was published
and with :data:`medmark.components.evidence.variants.OTHERS` other waves, drawn in the same way and never shown to anybody. A model that
remembers its training images is surer of an image's class in the published variant. If the suspect did not learn from this release, nothing
tells the published variant from the others, so by drawing the published one anew many times its p-value is exact: for benign models, for
models trained on *another owner's* release of the same images or on the images without marks, and for a suspect that answers as it pleases.

It needs no benign model and no mark that was learnt, and knows no limit by a number of keys; it finds models that fit their training images
closely, and says nothing of those that do not. Like the proof of the key it holds only if the seed was drawn at random.

Ours, after counterfactual tests of membership: a random half of twins is published (canaries: Carlini et al., The Secret Sharer, 2019,
arXiv 1802.08232). ``benchmarks/variants.py`` measures how well it tells models.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from medmark.components.base.progress import track
from medmark.components.evidence.variants import VariantsOf
from medmark.components.verification.interrogation import Suspect, ask

CLIP = 1e-7  # ours: what a float32 probability still tells from 1
CUT = 2.5  # standard deviations at which one image's say ends; ours
LEAST = (
    0.3  # of the median spread of the images: one to whose variants a suspect answers all alike shall not decide; ours
)
DRAWS = 100_000  # of what might have been published, for the p-value; ours
HOPELESS_AFTER = 50  # images after which a suspect that leans the other way is left alone; ours, it can only lower the chance to accuse
PUBLIC_SEED = 21  # of the draws


@dataclass(frozen=True)
class VariantTest:
    """Whether a suspect knows the published variants.

    Attributes:
        p_value: chance of such a lead if it never learned from the release; ties count against accusing. At least 1 / 100,001, and 1 if
            questioning stopped because the published variants were behind.
        images: that it was asked about.
        lead: how far the published variants are ahead, in standard deviations of what chance gives.
    """

    p_value: float
    images: int
    lead: float


def variant_test(suspect: Suspect, variants: Iterable[VariantsOf]) -> VariantTest:
    """Asks a suspect about variants, 9 an image, and tests its answers.

    Args:
        suspect: to be asked; it must give probabilities.
        variants: of at least one image, the hardest first.

    Raises:
        MedmarkError: what the suspect raises, or an answer is no probability vector.
    """
    leads: list[np.ndarray] = []
    for log_odds in track(_answers(suspect, variants), "asking about variants"):
        leads.append(log_odds)
        if len(leads) == HOPELESS_AFTER and _standardised(leads)[0].sum() <= 0:
            return VariantTest(1.0, len(leads), _lead(_standardised(leads)))
    return judge_variants(np.stack(leads, axis=1))


def judge_variants(log_odds: np.ndarray) -> VariantTest:
    """Tests answers.

    Args:
        log_odds: (variants, images), log P(class) / P(not class); the first of each image is of the published variant.
    """
    scores = _standardised(list(log_odds.T))
    count, rng = scores.shape[1], np.random.default_rng(PUBLIC_SEED)
    found, at_least = scores[0].sum() - 1e-9, 1
    for _ in range(0, DRAWS, 10_000):
        drawn = rng.integers(len(scores), size=(10_000, count))
        at_least += int((scores[drawn, np.arange(count)].sum(axis=1) >= found).sum())
    return VariantTest(at_least / (DRAWS + 1), count, _lead(scores))


def _answers(suspect: Suspect, variants: Iterable[VariantsOf]) -> Iterator[np.ndarray]:
    """Log-odds of each image's class, (variants,) an image; that of the published one comes first."""
    for label, published, images in variants:
        p = ask(suspect, images, label).p_target.clip(CLIP, 1 - CLIP)
        log_odds = np.log(p / (1 - p))
        yield np.concatenate([log_odds[[published]], np.delete(log_odds, published)])


def _standardised(log_odds: list[np.ndarray]) -> np.ndarray:
    """Answers in units of their spread over an image's variants, in which the published one counts like the others, (variants, images)."""
    given = np.stack(log_odds, axis=1)
    spread = given.std(axis=0)
    spread = spread + LEAST * np.median(spread)
    centred = given - given.mean(axis=0)
    return (centred / np.where(spread > 0, spread, 1.0)).clip(-CUT, CUT)


def _lead(scores: np.ndarray) -> float:
    spread = float(np.sqrt(scores.var(axis=0).sum()))
    return float((scores[0] - scores.mean(axis=0)).sum()) / spread if spread > 0 else 0.0
