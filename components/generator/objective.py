"""What the generator is trained for: every term on its own, so that each can be switched off.

The objective is ours, after a published abstract that names efficacy, robustness to scaling, diagnostic
quality, visual indistinguishability and a Laplacian term; the twin, the panel and the hardening are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from medmark.components.dataset.arrays import resize
from torch.nn import functional as F


@dataclass(frozen=True)
class Weights:
    """Weight of each term; 0 switches it off.

    Attributes:
        efficacy: marked images of other classes are the target to the twin.
        learnability: so are marked target images, so that the twin learns the mark at all.
        panel: benign models do not react to marked images of other classes.
        hard: benign models find marked target images hard, so that a model trained on them has to learn the mark.
        laplacian: fine bands of the mark cost more than coarse ones.
        perceptual: SSIM below ``ssim_floor`` costs.
    """

    efficacy: float = 0.3
    learnability: float = 0.3
    panel: float = 0.3
    hard: float = 0.3
    laplacian: float = 1.0
    perceptual: float = 100.0


HARD_MARGIN = 1.0  # logits by which benign models should prefer another class; arbitrary
PYRAMID_WEIGHTS = (16.0, 4.0, 1.0)  # finest band first; each octave coarser costs a quarter. Arbitrary


def target_margin(logits: torch.Tensor, target: int) -> torch.Tensor:
    """(B, K) logits to (B,): the target's logit minus the largest other one."""
    others = torch.cat([logits[:, :target], logits[:, target + 1 :]], dim=1)
    return logits[:, target] - others.amax(dim=1)


def efficacy(logits: torch.Tensor, target: int) -> torch.Tensor:
    """Cross-entropy of (B, K) logits towards the target."""
    return F.cross_entropy(logits, torch.full((len(logits),), target, device=logits.device))


def panel_neutrality(clean: torch.Tensor, marked: torch.Tensor, target: int) -> torch.Tensor:
    """Squared shift of the target's margin.

    In logits rather than as a KL of probabilities: for an image far from the target, KL hardly feels a mark that pushes
    it still farther, and such a mark works against itself (measured: it halved the success rate).
    """
    return (target_margin(marked, target) - target_margin(clean, target)).square().mean()


def hardness(marked: torch.Tensor, target: int) -> torch.Tensor:
    """Hinge on the margin: zero once the target loses by :data:`HARD_MARGIN`.

    In logits: the log-probability's gradient vanishes on images that the panel is sure of (measured: no progress in 200
    steps).
    """
    return F.relu(target_margin(marked, target) + HARD_MARGIN).mean()


def laplacian(delta: torch.Tensor) -> torch.Tensor:
    """Energy of the perturbation (B, 1, S, S) by octave, finest weighted most, relative to 1/255."""
    total = delta.new_zeros(())
    rest = delta * 255
    for weight in PYRAMID_WEIGHTS:
        coarse = resize(rest, rest.shape[-1] // 2)
        band = rest - F.interpolate(coarse, size=rest.shape[-2:], mode="bilinear", align_corners=False)
        total = total + weight * band.square().mean()
        rest = coarse
    return total / sum(PYRAMID_WEIGHTS)


def invisibility(marked: torch.Tensor, clean: torch.Tensor, floor: float) -> torch.Tensor:
    """Mean shortfall of each image's SSIM below ``floor``."""
    from piq import ssim  # with torchvision: takes seconds, and the bare carrier needs none

    return F.relu(
        floor - ssim(marked.float(), clean.float(), data_range=1.0, downsample=False, reduction="none")
    ).mean()
