"""The attacks of a stress test and their strengths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.arrays import ImageArrays
from medmark.components.robustness.data_attacks import crop_and_rotate, mix, remove_suspicious
from medmark.components.robustness.image_attacks import (
    add_noise,
    blur,
    equalize,
    equalize_locally,
    find_waves,
    median,
    remove_sector,
    remove_waves,
    window,
)
from medmark.components.robustness.model_attacks import distil, fine_prune, fine_tune, prune_weights
from medmark.components.surrogate.networks import Classifier
from medmark.components.surrogate.training import TrainConfig
from medmark.components.verification.jpeg_and_resize_curves import jpeg, shrink

Process = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Adversary:
    """An adversary that trained a model on the release, and what it has.

    Attributes:
        config: how it trains.
        marked_model: its model.
        train: the release's training images, marked ones among them; the adversary does not know which.
        val: the release's validation images; medmark marks training images only.
        clean: images with labels that carry no mark: the validation images, and those of another release if there is one.
        pool: those, and the release's training images of the other classes. Only one class has marks; an adversary that
            guesses which is the worst case for the owner.
        target: index of that class.
        seed: of all that it draws.
    """

    config: TrainConfig
    marked_model: Classifier
    train: ImageArrays
    val: ImageArrays
    clean: ImageArrays
    pool: ImageArrays
    target: int
    seed: int


@dataclass(frozen=True)
class Attack:
    """One attack as a curve.

    Attributes:
        name: of the attack; with ``kind`` unique.
        kind: ``model``: the trained model is changed; ``data``: other training images, then training anew; ``queries``:
            images are processed when the model is asked; ``pipeline``: images are processed before training anew and
            whenever the model is asked.
        strengths: in rising force.
        label: what the strength is, for the figure.
        run: from adversary and strength to a model, to training images, or to a function on images.
    """

    name: str
    kind: str
    strengths: tuple[float, ...]
    label: str
    run: Callable[[Adversary, float], Classifier | ImageArrays | Process]


def removal(method: str) -> Callable[[Adversary, float], ImageArrays]:
    return lambda adversary, share: remove_suspicious(
        adversary.train, adversary.marked_model, method, share, adversary.seed
    )


def processing(function: Callable[[torch.Tensor, float], torch.Tensor]) -> Callable[[Adversary, float], Process]:
    return lambda adversary, strength: lambda images: function(images, strength)


def notch(adversary: Adversary, count: float) -> Process:
    """Removes the waves that stand out in the target class of the release; the adversary guessed the class."""
    of_target = adversary.train.labels == adversary.target
    waves = find_waves(adversary.train.images[of_target], adversary.train.images[~of_target], int(count))
    return partial(remove_waves, waves=waves)


def share_of(images: ImageArrays, share: float, seed: int) -> ImageArrays:
    """Draws a random part of some images."""
    return images.subset(np.random.default_rng(seed).permutation(len(images))[: round(share * len(images))])


MODEL_ATTACKS = (
    Attack("fine-tuning", "model", (5, 20, 50), "epochs on clean images",
           lambda t, x: fine_tune(t.marked_model, t.clean, epochs=int(x), seed=t.seed)),
    Attack("fine-tuning, few images", "model", (0.1, 0.25, 0.5), "share of the clean images, 20 epochs",
           lambda t, x: fine_tune(t.marked_model, t.clean, epochs=20, images=round(x * len(t.clean)), seed=t.seed)),
    Attack("fine-tuning, other classes too", "model", (1, 5, 10), "epochs",
           lambda t, x: fine_tune(t.marked_model, t.pool, epochs=int(x), seed=t.seed)),
    Attack("pruning", "model", (0.1, 0.3, 0.5, 0.7, 0.8, 0.9), "share of the weights",
           lambda t, x: prune_weights(t.marked_model, x)),
    Attack("fine-pruning", "model", (0.3, 0.6, 0.8, 0.95), "share of the last channels",
           lambda t, x: fine_prune(t.marked_model, t.clean, share=x, seed=t.seed)),
    Attack("distillation", "model", (0.25, 0.5, 1.0), "share of the clean images",
           lambda t, x: distil(t.marked_model, share_of(t.pool, x, t.seed).images, t.config, seed=t.seed)),
)  # fmt: skip
DATA_ATTACKS = (
    Attack("mixing", "data", (0.25, 0.5), "share of clean images",
           lambda t, x: mix(t.train, t.clean, x, seed=t.seed)),
    Attack("cropping and rotation", "data", (0.1, 0.2, 0.3), "side cut off; turned by 90° times that",
           lambda t, x: crop_and_rotate(t.train, x, 90 * x, seed=t.seed)),
    Attack("spectral signatures", "data", (0.05, 0.15, 0.3), "share of images removed",
           removal("spectral signatures")),
    Attack("activation clustering", "data", (0.05, 0.15, 0.3), "share of images removed",
           removal("activation clustering")),
)  # fmt: skip
QUERY_ATTACKS = (
    Attack("resizing", "queries", (2.0, 0.75, 0.5, 0.375, 0.25), "side, share of the original", processing(shrink)),
    Attack("JPEG", "queries", (95, 85, 75, 60, 50), "quality", processing(jpeg)),
    Attack("blur", "queries", (0.5, 1.0, 2.0, 3.0), "sigma, pixels", processing(blur)),
    Attack("noise", "queries", (0.02, 0.05, 0.1), "standard deviation", processing(add_noise)),
    Attack("median filter", "queries", (3, 5, 7), "side, pixels", processing(median)),
    Attack("histogram equalisation", "queries", (0.5, 1.0), "share", processing(equalize)),
    Attack("local equalisation", "queries", (1.0, 2.0, 4.0), "limit of contrast", processing(equalize_locally)),
    Attack("windowing", "queries", (0.98, 0.9, 0.8), "share of grey values kept", processing(window)),
    Attack("notch filter", "queries", (1, 2, 4, 8), "waves removed", notch),
    Attack("sector filter", "queries", (20, 35), "degrees to either side of head to foot", processing(remove_sector)),
)
# training anew is dear: the strengths at which the price shows
PIPELINE_STRENGTHS = {
    "resizing": (0.5, 0.25),
    "JPEG": (50,),
    "blur": (1.0, 2.0),
    "noise": (0.05,),
    "median filter": (5,),
    "histogram equalisation": (1.0,),
    "local equalisation": (2.0,),
    "windowing": (0.9,),
    "notch filter": (1, 2, 4, 8),
    "sector filter": (35,),
}
PIPELINE_ATTACKS = tuple(
    replace(attack, kind="pipeline", strengths=PIPELINE_STRENGTHS[attack.name]) for attack in QUERY_ATTACKS
)
ATTACKS = MODEL_ATTACKS + QUERY_ATTACKS + DATA_ATTACKS + PIPELINE_ATTACKS


def choose(names: list[str]) -> tuple[Attack, ...]:
    """Returns the attacks of these names, of every kind; all if there is no name.

    Raises:
        MedmarkError: there is no such attack.
    """
    known = list(dict.fromkeys(attack.name for attack in ATTACKS))
    for name in names:
        if name not in known:
            raise MedmarkError(f"unknown attack: {name!r}; use one of {', '.join(known)}")
    return tuple(attack for attack in ATTACKS if not names or attack.name in names)
