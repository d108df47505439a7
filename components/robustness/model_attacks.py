"""Attacks on a trained model: a classifier in, another classifier out. The one that comes in is not changed."""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

import numpy as np
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.base.threads import device, mixed_precision, seed_everything, use_threads
from medmark.components.dataset.arrays import ImageArrays
from medmark.components.robustness.suspicion import head, penultimate
from medmark.components.surrogate.networks import Classifier, build
from medmark.components.surrogate.training import TrainConfig, augment, predict_probabilities
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

BATCH = 32  # as in training; arbitrary
M = TypeVar("M", bound=nn.Module)


def fine_tune(
    model: Classifier,
    clean: ImageArrays,
    *,
    epochs: int,
    images: int | None = None,
    learning_rate: float = 5e-4,
    seed: int = 0,
) -> Classifier:
    """Goes on training on images without the mark, all layers, class-balanced.

    Args:
        model: the adversary's model.
        clean: images with labels.
        epochs: passes over them.
        images: only this many of them, drawn at random; all when None.
        learning_rate: first value of a cosine schedule of AdamW; a quarter of what small_cnn is trained with. Arbitrary.
        seed: of choice, order and augmentation.

    Raises:
        MedmarkError: there is no image.
    """
    if images is not None:
        order = np.random.default_rng(seed).permutation(len(clean))
        clean = clean.subset(order[:images])
    answers = F.one_hot(clean.labels, model.num_classes).double()
    return _train(
        deepcopy(model), clean.images, answers, epochs=epochs, learning_rate=learning_rate, temperature=1.0, seed=seed
    )


def prune_weights(model: M, share: float) -> M:
    """Sets the smallest weights of all convolutions and linear layers to zero, ranked over the whole network.

    Args:
        model: the adversary's model; a classifier or another network.
        share: of those weights, 0 to 1.
    """
    model = deepcopy(model).to(
        memory_format=torch.contiguous_format
    )  # torch's pruning cannot rank channels-last weights
    layers = [(m, "weight") for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=float(share))
    for layer, name in layers:
        prune.remove(layer, name)
    return model.to(memory_format=torch.channels_last).requires_grad_(False)


def fine_prune(model: Classifier, clean: ImageArrays, *, share: float, epochs: int = 5, seed: int = 0) -> Classifier:
    """Cuts off the channels that clean images leave idle, then fine-tunes (Liu et al., "Fine-Pruning", RAID 2018).

    The channels are those that the classifier's last layer reads: what the last convolutional block gives, averaged
    over the image. A channel is cut off by zeroing the weights that read it, which no other layer does; it stays cut
    off while the model is fine-tuned.

    Args:
        model: the adversary's model.
        clean: images without the mark, with labels.
        share: of the channels, 0 to 1; one is always left.
        epochs: of fine-tuning; 0 for none. Arbitrary.
        seed: of fine-tuning.

    Raises:
        MedmarkError: there is no image.
    """
    model = deepcopy(model)
    activity = penultimate(model, clean.images).abs().mean(dim=0)
    idle = activity.argsort()[: min(round(share * len(activity)), len(activity) - 1)]
    last = head(model)
    mask = torch.ones_like(last.weight)
    mask[:, idle] = 0
    prune.custom_from_mask(last, "weight", mask)
    if epochs:
        answers = F.one_hot(clean.labels, model.num_classes).double()
        _train(model, clean.images, answers, epochs=epochs, learning_rate=5e-4, temperature=1.0, seed=seed)
    prune.remove(last, "weight")
    return model.requires_grad_(False)


def distil(
    model: Classifier, images: torch.Tensor, config: TrainConfig, *, temperature: float = 4.0, seed: int = 0
) -> Classifier:
    """Lets a new network learn the model's answers (Hinton, Vinyals, Dean, 2015).

    Only class probabilities are asked for, as an interface on the network gives them; a logarithm makes logits of
    them, up to a constant that the softmax removes.

    Args:
        model: the teacher.
        images: (N, 1, S, S) float32 in [0, 1], no labels needed.
        config: architecture, size, epochs and learning rate of the student.
        temperature: softens the answers; Hinton et al. try 1 to 20.
        seed: of weights, order and augmentation.

    Raises:
        MedmarkError: there is no image.
    """
    answers = torch.from_numpy(predict_probabilities(model, images)) if len(images) else torch.empty(0, 2)
    student = build(config.architecture, num_classes=model.num_classes, size=config.size, seed=seed)
    return _train(
        student,
        images,
        answers,
        epochs=config.epochs,
        learning_rate=config.learning_rate,
        temperature=temperature,
        seed=seed,
    )


def _train(
    model: Classifier,
    images: torch.Tensor,
    answers: torch.Tensor,
    *,
    epochs: int,
    learning_rate: float,
    temperature: float,
    seed: int,
) -> Classifier:
    """Trains in place on (N, K) class probabilities; every class, by its most probable one, is drawn equally often."""
    if not len(images):
        raise MedmarkError("no clean image to train on; give the adversary some")
    use_threads()
    seed_everything(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    where = device()
    model.to(where).requires_grad_(True)
    top = answers.argmax(dim=1)
    chance = 1 / torch.bincount(top, minlength=model.num_classes).clamp_min(1)[top].double()
    softened = torch.softmax(answers.clamp_min(1e-12).log() / temperature, dim=1).float()
    batches = max(1, len(images) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, epochs * batches))
    for _ in range(epochs):
        model.train()
        order = torch.multinomial(chance, len(images), replacement=True, generator=generator)
        for index in order[: batches * BATCH].split(BATCH):
            seen = augment(images[index].to(where), "standard", generator)
            with mixed_precision(where):
                logits = model(seen.contiguous(memory_format=torch.channels_last)).float()
            # times the squared temperature, which keeps the gradients' size (Hinton et al.)
            loss = F.cross_entropy(logits / temperature, softened[index].to(where)) * temperature**2
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.cpu().eval().requires_grad_(False)
