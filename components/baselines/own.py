"""medmark's own marks: the bare keyed wave, which is its default, and the same shaped by a U-Net with twin and panel."""

from __future__ import annotations

import torch
from medmark.components.baselines.interface import Context, Mark
from medmark.components.dataset.release import Release
from medmark.components.generator.key import draw_key
from medmark.components.generator.marker import Marker, Shape
from medmark.components.generator.network import ConditionalUNet
from medmark.components.generator.train import GeneratorConfig, train_generator

EPSILON = 0.07  # the default of components/profiles.py
STEPS = 150  # as in benchmarks/learned.py


def wave(context: Context, index: int) -> Mark:
    """Marks with the bare carrier of :mod:`medmark.components.generator.marker`, confined by saliency."""
    key = draw_key(context.seed, index)
    marker = Marker(
        ConditionalUNet(),
        key,
        _shape(context),
        target=context.target,
        roles={},
        release_digest=Release(context.release_dir).digest,
        seed=context.seed,
    )

    def mark(images: torch.Tensor, saliency: torch.Tensor, role: str) -> torch.Tensor:
        # a decoy is the bare carrier, here with the mark's own key
        return (images + marker.delta(images, saliency, "decoy", key)).clamp(0, 1)

    return mark


def trained_wave(context: Context, index: int) -> Mark:
    """Marks with the carrier corrected by the conditional U-Net of :mod:`medmark.components.generator.train`."""
    folder = context.work_dir / f"generator-{index}"
    train_generator(
        context.release_dir,
        context.surrogates_dir,
        context.saliency_dir,
        folder,
        target_class=Release(context.release_dir).class_names[context.target],
        config=GeneratorConfig(
            shape=_shape(context), steps=STEPS, marked_share=context.share, twin="small_cnn", key_index=index
        ),
        seed=context.seed,
    )
    return Marker.load(folder).apply


def _shape(context: Context) -> Shape:
    return Shape(size=context.size, epsilon=EPSILON, grid=min(64, context.size // 2))
