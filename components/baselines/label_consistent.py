"""Label-Consistent: target images made hard by an adversarial step, then stamped. Own implementation after the paper.

Turner, Tsipras, Madry: "Label-Consistent Backdoor Attacks", 2019, arXiv:1912.02771. A network that can no longer explain
the label by the image itself learns the patch. Queries carry the patch alone. Ours: one corner instead of all four, so
that the control can sit in another; a surrogate that was trained without adversarial examples; number and length of
steps.
"""

from __future__ import annotations

import torch
from medmark.components.baselines.interface import Context, Mark
from medmark.components.baselines.triggers import badnets
from medmark.components.surrogate.networks import Classifier
from torch.nn import functional as F

EPSILON = 8 / 255  # largest change of a pixel; the default of BackdoorBox
STEPS = 40  # of projected gradient ascent; arbitrary
STEP = 2.5 * EPSILON / STEPS  # reaches the bound from anywhere inside it (Madry et al. 2018)


def label_consistent(context: Context, index: int) -> Mark:
    """See the module."""
    stamped = badnets(context, index)
    surrogate = context.surrogates[0]

    def mark(images: torch.Tensor, saliency: torch.Tensor, role: str) -> torch.Tensor:
        if role == "mark":
            images = harden(surrogate, images, context.target)
        return stamped(images, saliency, role)

    return mark


def harden(surrogate: Classifier, images: torch.Tensor, label: int) -> torch.Tensor:
    """Moves each pixel of (B, 1, S, S) images by at most :data:`EPSILON` so that the surrogate's loss on ``label`` grows."""
    where = next(surrogate.parameters()).device
    clean = images.to(where)
    labels = torch.full((len(clean),), label, device=where)
    moved = clean.clone()
    with torch.enable_grad():
        for _ in range(STEPS):
            moved = moved.detach().requires_grad_(True)
            # summed: each image's gradient is its own, whatever the batch
            loss = F.cross_entropy(surrogate(moved), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, moved)
            moved = clean + (moved + STEP * gradient.sign() - clean).clamp(-EPSILON, EPSILON)
            moved = moved.clamp(0, 1)
    return moved.detach().to(images.device)
