"""Marks by a U-Net trained against a frozen classifier: SSCL-BW and X-Mark. Reconstructions after the abstracts.

Neither full text was at hand: network, weights, bounds and number of steps are ours, and the same for both. LPIPS needs
a network that medmark does not ship; SSIM stands in for it. The marks are adversarial examples by construction: what
that means for benign models is what the comparison measures.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from medmark.components.base.progress import track
from medmark.components.base.threads import device, mixed_precision, seed_everything
from medmark.components.baselines.interface import Context, Mark
from medmark.components.dataset.arrays import resize
from medmark.components.generator import objective
from medmark.components.generator.network import ConditionalUNet
from medmark.components.surrogate.networks import Classifier
from torch.nn import functional as F

EPSILON = 16 / 255  # largest change of a pixel; about that of medmark (0.07)
STEPS = 150  # of AdamW; as medmark's own in this comparison
BATCH = 16  # target images, and as many of other classes, a step. Arbitrary
LEARNING_RATE = 3e-3  # cosine to a tenth. Arbitrary
WIDTH = 8  # channels at full resolution. Arbitrary
SSIM_FLOOR = 0.96  # SSIM below which an image costs, and by how much: as in medmark's generator
PERCEPTUAL = 100.0

# (surrogate, marked images of other classes, of the target, target) to a loss
Loss = Callable[[Classifier, torch.Tensor, torch.Tensor, int], torch.Tensor]


def sscl_bw(context: Context, index: int) -> Mark:
    """Gives each image a mark of its own; labels stay.

    Wang, Qiao, Liu, Li, Wu, Li: "SSCL-BW: Sample-Specific Clean-Label Backdoor Watermarking for Dataset Ownership
    Verification", 2025, arXiv:2510.26420. Its abstract names a U-Net and three losses: of target samples
    (effectiveness), of non-target samples (reliability of the trigger) and perceptual. Our reading: marked target images
    must lose their class to the surrogate, so that an adversary's network needs the mark; marked others must be taken for the
    target; SSIM stays above a floor.
    """

    def loss(surrogate: Classifier, others: torch.Tensor, of_target: torch.Tensor, target: int) -> torch.Tensor:
        return objective.efficacy(_logits(surrogate, others), target) + objective.hardness(
            _logits(surrogate, of_target), target
        )

    return _train(context, index, loss, salient=False, laplacian=0.0)


def x_mark(context: Context, index: int) -> Mark:
    """Gives each image a mark of its own inside what a classifier looks at; labels stay.

    Kulkarni, Guo, Huang: "X-Mark: Saliency-Guided Robust Dataset Ownership Verification for Medical Imaging", 2026,
    arXiv:2602.09284. Its abstract names a conditional U-Net, salient regions, efficacy, robustness to scaling, quality,
    and a Laplacian penalty of high frequencies. Our reading: a frozen classifier takes every marked image, shrunk by a
    random factor, for the target. medmark's own twin and panel are *not* in it.
    """
    rescaling = torch.Generator().manual_seed(context.seed + 17)

    def loss(surrogate: Classifier, others: torch.Tensor, of_target: torch.Tensor, target: int) -> torch.Tensor:
        both = torch.cat([others, of_target])
        side = both.shape[-1]
        factor = 0.45 + 0.55 * float(torch.rand((), generator=rescaling))  # as in medmark's generator
        return objective.efficacy(_logits(surrogate, resize(resize(both, round(side * factor)), side)), target)

    return _train(context, index, loss, salient=True, laplacian=1.0)


def _logits(model: Classifier, images: torch.Tensor) -> torch.Tensor:
    with mixed_precision(images.device):
        return model(images.contiguous(memory_format=torch.channels_last)).float()


def _train(context: Context, index: int, loss: Loss, *, salient: bool, laplacian: float) -> Mark:
    """Fits the U-Net.

    Args:
        context: see there.
        index: the control is another network, from another seed, against another surrogate.
        loss: what the surrogate must think.
        salient: the network sees the saliency map, and changes a pixel by at most :data:`EPSILON` times its saliency.
        laplacian: weight of the penalty of high frequencies.
    """
    seed, where = context.seed + 31 * (index + 1), device()
    seed_everything(seed)
    surrogate = context.surrogates[index % len(context.surrogates)].to(where)
    network = ConditionalUNet(WIDTH).to(where)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS, eta_min=LEARNING_RATE / 10)
    drawing = torch.Generator().manual_seed(seed)
    of_target = torch.nonzero(context.train.labels == context.target)[:, 0]
    others = torch.nonzero(context.train.labels != context.target)[:, 0]
    for _ in track(range(STEPS), "training a U-Net"):
        drawn = [pool[torch.randint(len(pool), (BATCH,), generator=drawing)] for pool in (others, of_target)]
        picked = torch.cat(drawn)
        images, saliency = context.train.images[picked].to(where), context.saliency[picked].to(where)
        with mixed_precision(where):
            delta = _delta(network, images, saliency, salient)
        changed = (images + delta).clamp(0, 1)
        total = loss(surrogate, changed[:BATCH], changed[BATCH:], context.target)
        total = total + PERCEPTUAL * objective.invisibility(changed, images, SSIM_FLOOR)
        total = total + laplacian * objective.laplacian(delta)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()
        schedule.step()
    surrogate.cpu()
    network = network.cpu().eval().requires_grad_(False)

    def mark(images: torch.Tensor, saliency: torch.Tensor, role: str) -> torch.Tensor:
        return (images + _delta(network, images, saliency, salient)).clamp(0, 1)

    return mark


def _delta(network: ConditionalUNet, images: torch.Tensor, saliency: torch.Tensor, salient: bool) -> torch.Tensor:
    """Returns the (B, 1, S, S) perturbation; the inputs of medmark's network that these methods lack are zero."""
    nothing = torch.zeros_like(images)
    gate = F.interpolate(saliency, size=images.shape[-2:], mode="bilinear", align_corners=False) if salient else None
    given = torch.cat([(images - 0.5) / 0.25, nothing if gate is None else gate * 2 - 1, nothing, nothing], dim=1)
    change = EPSILON * torch.tanh(network(given).float())
    return change if gate is None else change * gate
