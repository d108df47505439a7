"""Prove that a suspect learned from the published images, by patients who were held back: an exact test, whatever the suspect is.

A lot decided which patients were published. A model is surer of images that it learned from than of others that are as hard. So the suspect
is asked about images of both kinds, none of them marked; what benign models, which saw both, expect of each image is subtracted, and the mean
of the published ones is compared with that of the others. If the suspect did not learn from this release, the lot could as well have
fallen otherwise, so by drawing it anew many times the p-value is exact: for benign models, for models trained on all of the clean images, for
models trained on *another owner's* release of the same images, and for a suspect that answers as it pleases.

It needs no mark that was learnt and knows no limit by a number of keys. It finds models that fit their training images more closely than other
images, and says nothing of those that do not; it grows with the root of the number of patients. Like the proof of the key it holds only if the
seed was drawn at random. Asking shows the suspect images that nobody else has seen.

Ours, after tests of membership calibrated by other models (Carlini et al., Membership Inference Attacks From First Principles, 2022, arXiv
2112.03570) and dataset inference (Maini et al., 2021, arXiv 2104.10706). ``benchmarks/other_owners.py`` measures how well it tells models.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from medmark.components.base.progress import track
from medmark.components.evidence.held_back import Shown
from medmark.components.verification.interrogation import Suspect, ask

CLIP = 1e-6  # ours: what a float32 probability still tells from 1
DRAWS = 20_000  # of who might have been published, for the p-value; ours
HOPELESS_AFTER = 300  # images after which a suspect that leans the other way is left alone; ours, it can only lower the chance to accuse
PUBLIC_SEED = 22  # of the draws


@dataclass(frozen=True)
class HeldBackTest:
    """Whether a suspect knows published patients better than those held back.

    Attributes:
        p_value: chance of such a lead if it never learned from the release; ties count against accusing. At least 1 / 20,001, and 1 if
            questioning stopped because the published ones were behind.
        images: that it was asked about.
        held_back: how many of them were never published.
        lead: how far the published ones are ahead, in standard deviations of what chance gives.
    """

    p_value: float
    images: int
    held_back: int
    lead: float


def held_back_test(suspect: Suspect, shown: Iterable[Shown]) -> HeldBackTest:
    """Asks a suspect about images, each once, and tests its answers.

    Args:
        suspect: to be asked; it must give probabilities.
        shown: the images.

    Raises:
        MedmarkError: what the suspect raises, or an answer is no probability vector.
    """
    patients: list[str] = []
    parts: list[tuple[np.ndarray, ...]] = []
    for some in track(shown, "asking about images that were held back, and others"):
        probabilities = np.empty(len(some.labels))
        for label in np.unique(some.labels):
            of_label = some.labels == label
            probabilities[of_label] = ask(suspect, some.images[of_label], int(label)).p_target
        p = probabilities.clip(CLIP, 1 - CLIP)
        looked = len(patients) >= HOPELESS_AFTER
        patients += some.patients
        parts.append((np.log(p / (1 - p)), some.expected, some.labels, some.held_back))
        if len(patients) >= HOPELESS_AFTER and not looked:
            found = _judged(parts, patients)
            if found.lead <= 0:
                return replace(found, p_value=1.0)
    return _judged(parts, patients)


def _judged(parts: list[tuple[np.ndarray, ...]], patients: list[str]) -> HeldBackTest:
    log_odds, expected, labels, held_back = map(np.concatenate, zip(*parts, strict=True))
    return judge_held_back(log_odds, expected, labels, patients, held_back)


def judge_held_back(
    log_odds: np.ndarray, expected: np.ndarray, labels: np.ndarray, patients: list[str], held_back: np.ndarray
) -> HeldBackTest:
    """Tests answers.

    Args:
        log_odds: (N,) log P(class) / P(not class) of each image by the suspect.
        expected: (N,) the same by benign models.
        labels: (N,) classes.
        patients: of each image; all images of a patient are on one side.
        held_back: (N,) bool.
    """
    beyond = _beyond(log_odds, expected, labels)
    _, patient = np.unique(patients, return_inverse=True)
    sums, counts = np.bincount(patient, beyond), np.bincount(patient)
    sides = np.bincount(patient, held_back) > 0
    held = int(sides.sum())
    if held in (0, len(sides)):
        return HeldBackTest(1.0, len(beyond), int(held_back.sum()), 0.0)

    def lead(drawn: np.ndarray) -> np.ndarray:
        """Mean of the published images less that of the others, for each drawing."""
        away, images = drawn @ sums, drawn @ counts
        return (sums.sum() - away) / (counts.sum() - images) - away / images

    rng = np.random.default_rng(PUBLIC_SEED)
    leads = []
    for _ in range(0, DRAWS, 1_000):
        drawn = np.zeros((1_000, len(sides)))
        who = rng.random((1_000, len(sides))).argpartition(held - 1, axis=1)[:, :held]
        np.put_along_axis(drawn, who, 1.0, axis=1)
        leads.append(lead(drawn))
    by_chance, found = np.concatenate(leads), float(lead(sides.astype(float)[None])[0])
    at_least = 1 + int((by_chance >= found - 1e-9).sum())
    spread = float(by_chance.std())
    ahead = (found - float(by_chance.mean())) / spread if spread > 0 else 0.0
    return HeldBackTest(at_least / (DRAWS + 1), len(beyond), int(held_back.sum()), ahead)


def _beyond(log_odds: np.ndarray, expected: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What the suspect says beyond a line through what benign models say, one for each class."""
    of_class = (labels[:, None] == np.unique(labels)).astype(float)
    explained = np.hstack([of_class, of_class * expected[:, None]])
    fitted, *_ = np.linalg.lstsq(explained, log_odds, rcond=None)
    return log_odds - explained @ fitted
