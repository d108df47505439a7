"""What is left of a segmenter's mark after attacks, and what they cost the adversary."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from medmark.components.dataset.arrays import MaskArrays, resize
from medmark.components.robustness.image_attacks import add_noise, blur
from medmark.components.robustness.model_attacks import prune_weights
from medmark.components.segmentation.evidence import Payload
from medmark.components.segmentation.harm import image_metrics
from medmark.components.segmentation.networks import Segmenter, predict_maps, save_segmenter
from medmark.components.segmentation.reading import read_payload
from medmark.components.segmentation.training import SegmenterConfig, train_segmenter
from medmark.components.verification.jpeg_and_resize_curves import jpeg, shrink

PRUNED = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9)  # shares of the weights
FINE_TUNED = (1, 5, 10)  # passes over clean images
TEMPERATURES = (0.5, 2.0, 4.0)
FINE_TUNING_RATE = 5e-4  # a quarter of what the segmenter was trained with; arbitrary


def _jpeg(images: torch.Tensor, quality: float) -> torch.Tensor:
    """Compresses each channel as a grey image."""
    return torch.cat([jpeg(channel, quality) for channel in images.split(1, dim=1)], dim=1)


def _crop(images: torch.Tensor, share: float) -> torch.Tensor:
    """Cuts this share of the side off at every side, and enlarges what is left."""
    side = images.shape[-1]
    cut = round(share * side)
    return resize(images[..., cut : side - cut, cut : side - cut], side)


# what an adversary does to the images that the suspect is asked about: function and strengths
PROCESSED: dict[str, tuple[Callable[[torch.Tensor, float], torch.Tensor], tuple[float, ...]]] = {
    "jpeg": (_jpeg, (90, 70, 50)),
    "resize": (shrink, (0.75, 0.5)),
    "crop": (_crop, (0.03, 0.06, 0.1)),
    "blur": (blur, (0.5, 1.0)),
    "noise": (add_noise, (0.02, 0.05)),
}


def stress_segmenter(
    model: Segmenter, payload: Payload, train: MaskArrays, test: MaskArrays, config: SegmenterConfig
) -> list[dict[str, Any]]:
    """Attacks a marked segmenter, its inputs and its outputs, and reads the mark from what is left.

    Args:
        model: the marked segmenter.
        payload: what it carries.
        train: images and masks that the adversary has: those that the segmenter learnt from.
        test: images that the suspect is asked about.
        config: how the segmenter was trained; students are trained so.

    Returns:
        A row for each attack: ``attack``, ``strength``, ``matches``, ``p_value``, ``exact`` (whether the text is read without an error)
        and ``dice`` of the attacked model, after the attack, on images without the trigger.
    """
    rows = [_row("none", 0.0, *_answers(model, payload, test), payload, test)]
    for attack, strength, attacked in _models(model, train, config):
        rows.append(_row(attack, strength, *_answers(attacked, payload, test), payload, test))
    clean, triggered = test.images, payload.mark.put(test.images)
    for attack, (change, strengths) in PROCESSED.items():
        for strength in strengths:
            maps = [predict_maps(model, change(images, strength)) for images in (clean, triggered)]
            rows.append(_row(attack, strength, maps[0], maps[1], payload, test))
    answers = _answers(model, payload, test)
    eight_bits = [(maps * 255).round() / 255 for maps in answers]
    rows.append(_row("8-bit answers", 8, eight_bits[0], eight_bits[1], payload, test))
    for temperature in TEMPERATURES:
        scaled = [torch.sigmoid(torch.logit(maps, eps=1e-6) / temperature) for maps in answers]
        rows.append(_row("temperature", temperature, scaled[0], scaled[1], payload, test))
    return rows


def _models(model: Segmenter, train: MaskArrays, config: SegmenterConfig) -> Iterator[tuple[str, float, Segmenter]]:
    """Attacked models, with name and strength of the attack."""
    for share in PRUNED:
        yield "pruning", share, prune_weights(model, share)
    batches = max(1, len(train) // config.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        save_segmenter(model, weights)
        for epochs in FINE_TUNED:
            tuned = replace(
                config, steps=epochs * batches, weights=str(weights), learning_rate=FINE_TUNING_RATE, seed=1
            )
            yield "fine-tuning", epochs, train_segmenter(train, tuned).model
    # a student sees the teacher's probabilities for clean images, not its masks
    answers = replace(train, masks=predict_maps(model, train.images)[:, None])
    student = replace(config, augmentation="none", seed=2, weights=None)
    yield "distillation", 1, train_segmenter(answers, student).model


def _answers(model: Segmenter, payload: Payload, test: MaskArrays) -> tuple[torch.Tensor, torch.Tensor]:
    return predict_maps(model, test.images), predict_maps(model, payload.mark.put(test.images))


def _row(
    attack: str, strength: float, clean: torch.Tensor, triggered: torch.Tensor, payload: Payload, test: MaskArrays
) -> dict[str, Any]:
    reading = read_payload(triggered.numpy(), payload.mark.modules, payload.mark_key)
    return {
        "attack": attack,
        "strength": strength,
        "matches": reading.matches,
        "p_value": reading.p_value,
        "exact": reading.decoded is not None and reading.decoded.text == payload.text,
        "dice": float(np.nanmean(image_metrics(clean, test.masks)["dice"])),
    }
