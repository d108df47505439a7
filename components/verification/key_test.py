"""Prove that a suspect knows the key of the mark: an exact test, whatever the suspect is.

The suspect is asked about query images with waves of the whole table, in an order and with phases that have nothing to do with the
key. Its answers are compared with what a model would answer that learned a key, for each of the 1,800 keys, and the keys are
ranked. If the suspect did not learn from this release, the key, which was drawn with equal chances
(:func:`medmark.components.generator.key.draw_key`), is independent of all that the suspect will ever answer, so its rank is an exact
p-value (ties count against accusing): for benign models of any architecture, for models that were trained on *another owner's* release, for a suspect that answers
at random or as it pleases. It needs no benign model; theirs are fixed before the suspect is asked, and keep it exact.

An audit asks about a few images at a time (:func:`sequential_key_test`) and stops as soon as the key is told, or as half of the keys are told better:
all keys are put into one order, look by look, and the place of the key in it is as exact as its rank.

It does not hold if the key was not drawn at random (:func:`medmark.components.lineage.drawing.check_draw`), or if what the suspect was
trained on was made by someone who knows the key.

Ours. ``benchmarks/keys.py`` measures how well models that learned a key tell it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice

import numpy as np
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.arrays import resize
from medmark.components.evidence.key_answers import CYCLES, DEGREES, KeyAnswers
from medmark.components.generator import key as table
from medmark.components.generator.key import Key, turned
from medmark.components.generator.marker import carriers
from medmark.components.verification.interrogation import Suspect, ask

IMAGES = 30  # asked about with every wave; ours
LOOKS = (6, 12, 18, 24)  # images after which an audit ranks the keys before it has asked about all; ours
STRENGTH = 0.045  # standard deviation of a wave of MIDDLE cycles, share of the display's range; ours
CLIP = 1e-4  # ours: a suspect that rounds to four digits and one that does not shall count the same
# how far from its key a model answers, standard deviations in octaves and degrees; measured likewise, see _told
WIDTH = (0.3, 12.0)
PRIOR_MODELS = 5  # ours: the mean variance of all waves counts like so many more benign models
OWN_SHARE = 0.25  # ours: of the suspect's own changes; benign models that agree closely shall not decide alone
SMALLEST = 64  # pixels; a wave that finer images could not hold is drawn at this side and reduced, as marks are
CHUNK = 24  # waves at a time: large images with all of them would need much memory
PHASES = 20  # public seed


@dataclass(frozen=True)
class KeyTest:
    """Rank of the key among all keys.

    Attributes:
        p_value: share of the keys that explain the answers at least as well, or that were told at an earlier look; ties count against
            accusing.
        rank: 1: no other key does.
        keys: of the table.
        images: that it took, in an audit; None: all.
    """

    p_value: float
    rank: int
    keys: int
    images: int | None = None


def ask_waves(suspect: Suspect, images: Iterable[torch.Tensor], target: int) -> KeyAnswers:
    """Asks a suspect about query images, clean and with each wave: 91 questions an image.

    Args:
        suspect: to be asked.
        images: the first :data:`IMAGES` of the evidence without a mark, each (1, S, S) float32 in [0, 1].
        target: index of the target class.

    Raises:
        MedmarkError: what the suspect raises, or an answer is no probability vector.
    """
    return mean_answers(list(ask_image_by_image(suspect, images, target)))


def ask_image_by_image(suspect: Suspect, images: Iterable[torch.Tensor], target: int) -> Iterator[KeyAnswers]:
    """Does the same, and yields what the suspect answers about each image as soon as it was asked.

    Args:
        suspect, images, target: see :func:`ask_waves`.

    Raises:
        MedmarkError: as :func:`ask_waves`.
    """
    shape = (len(CYCLES), len(DEGREES))
    for number, clean in enumerate(images):
        parts = [ask(suspect, clean[None], target)]
        for wave in waves(number, clean.shape[-1]).split(CHUNK):
            parts.append(ask(suspect, (clean + resize(wave, clean.shape[-1])).clamp(0, 1), target))
        p = np.concatenate([part.p_target for part in parts]).clip(CLIP, 1 - CLIP)
        is_target = np.concatenate([part.is_target for part in parts]).astype(float)
        log_odds = np.log(p / (1 - p))
        yield KeyAnswers((log_odds[1:] - log_odds[0]).reshape(shape), (is_target[1:] - is_target[0]).reshape(shape))


def mean_answers(answers: Sequence[KeyAnswers]) -> KeyAnswers:
    """Returns what a suspect answers on average over images."""
    return KeyAnswers(*(np.mean([getattr(one, kind) for one in answers], axis=0) for kind in ("log_odds", "labels")))


def waves(number: int, side: int) -> torch.Tensor:
    """The waves that the query image of this number is asked with, at its size or larger, (90, 1, S, S)."""
    rng = np.random.default_rng((PHASES, number))
    keys = [
        turned(Key(degrees, cycles, 0.0), float(rng.uniform(0, 2 * math.pi)), bool(rng.integers(2)))
        for cycles in CYCLES
        for degrees in DEGREES
    ]
    strengths = torch.tensor([STRENGTH * key.strength for key in keys])
    return strengths[:, None, None, None] * carriers(keys, max(side, SMALLEST))


def key_test(answers: KeyAnswers, benign: Sequence[KeyAnswers], key: Key, *, label_only: bool = False) -> KeyTest:
    """Ranks the key among all of the table.

    Args:
        answers: of the suspect.
        benign: of at least two models.
        key: of the table.
        label_only: whether the suspect gives no probabilities.

    Raises:
        MedmarkError: fewer than two benign models, or a key that is not in the table.
    """
    found = sequential_key_test([answers], benign, key, images=1, passing=0, label_only=label_only)
    return KeyTest(found.p_value, found.rank, found.keys)


def sequential_key_test(
    answers: Iterable[KeyAnswers],
    benign: Sequence[KeyAnswers],
    key: Key,
    *,
    images: int,
    passing: int,
    label_only: bool = False,
) -> KeyTest:
    """Ranks the key among all of the table after a few images, and asks about more only while that may change something.

    After each look, the best keys are told: as many in all as ``passing`` times the share of looks. The worse half of the others
    is given up, and only what is left is ranked again. So each key gets a place: those told first, then what the last look ranks, then those given up,
    the last of them first. The key was drawn with equal chances and the answers know nothing of it, so its place is an exact p-value,
    although its own fate decides when the questions end. If a key's rank is the same at all looks, its place is that rank.

    Args:
        answers: of the suspect to one image after the other, as :func:`ask_image_by_image` gives them; taken one by one.
        benign, key, label_only: see :func:`key_test`.
        images: how many there are.
        passing: places that suffice; none is told before the last look when 0.

    Raises:
        MedmarkError: as :func:`key_test`, or what asking raises.
    """
    if len(benign) < 2:
        raise MedmarkError(f"{len(benign)} benign models that were asked for the key; at least two are needed")
    try:
        own = table.CYCLES.index(key.cycles), table.DEGREES.index(key.degrees)
    except ValueError:
        raise MedmarkError("key that is not in the table; restore the evidence from a backup") from None
    kind = "labels" if label_only else "log_odds"
    others = np.stack([getattr(other, kind) for other in benign])
    ends = [*(look for look in LOOKS if look < images), images]
    coming, before = iter(answers), 0
    given: list[KeyAnswers] = []
    left = np.ones((len(table.CYCLES), len(table.DEGREES)), dtype=bool)
    for number, end in enumerate(ends, 1):
        given += islice(coming, end - len(given))
        told = _told(getattr(mean_answers(given), kind), others)
        place = before + left.sum() - np.searchsorted(np.sort(told[left]), told)  # ties count against accusing
        best, worse = place <= passing * number // len(ends), place > before + left.sum() // 2
        if number == len(ends) or best[own] or worse[own]:
            break
        before += int((left & best).sum())
        left &= ~best & ~worse
    return KeyTest(int(place[own]) / told.size, int(place[own]), told.size, end)


def _told(given: np.ndarray, benign: np.ndarray) -> np.ndarray:
    """How well answers tell each key, (keys' cycles, keys' degrees).

    Answers count in units of how much benign models differ. Keys are ranked by them with and without those models' mean subtracted, and
    the worse of both ranks is taken. Subtracting alone tells keys worse, and without it what all models answer to is taken for a key.
    Measured: benchmarks/results/key_statistics_kermany_64.json, key_statistics_phantoms_64.json.
    """
    mean, variance = benign.mean(axis=0), benign.var(axis=0, ddof=1)
    moderated = (PRIOR_MODELS * variance.mean() + (len(benign) - 1) * variance) / (PRIOR_MODELS + len(benign) - 1)
    scale = np.sqrt(moderated + OWN_SHARE**2 * np.mean((given - mean) ** 2))
    scale = np.where(scale > 0, scale, 1.0)
    both = [np.tensordot(_expected(), change / scale, axes=2) for change in (given, given - mean)]
    return np.minimum(*(_worse(fits).reshape(fits.shape) for fits in both))


def _worse(fits: np.ndarray) -> np.ndarray:
    """How many keys fit worse than each, flat; those that fit as well do not count."""
    ordered = np.sort(fits, axis=None)
    return np.searchsorted(ordered, fits.ravel() - 1e-9 * np.abs(ordered).max())


@cache
def _expected() -> np.ndarray:
    """What a model answers to the waves that learned a key, (keys' cycles, keys' degrees, cycles, degrees).

    Each has mean 0 and norm 1, so that a model that answers more to all waves favours no key.
    """
    octaves, turn = WIDTH
    by_cycles = np.exp(-0.5 * (np.subtract.outer(np.log2(table.CYCLES), np.log2(CYCLES)) / octaves) ** 2)
    asked = np.array(DEGREES)
    # marks are turned either way, and near 0 and 90 degrees a wave is close to both: their phases differ, so the squares add up
    either = np.stack([np.subtract.outer(table.DEGREES, side) for side in (asked, -asked, 180 - asked)])
    by_degrees = np.sqrt(np.exp(-((either / turn) ** 2)).sum(axis=0))
    made = by_cycles[:, None, :, None] * by_degrees[None, :, None, :]
    made -= made.mean(axis=(2, 3), keepdims=True)
    return made / np.sqrt((made**2).sum(axis=(2, 3), keepdims=True))
