"""Forge a mark afterwards, to accuse a model that never saw any.

With a model and its gradients a forger can find one pattern that moves most images to the target class, and present it as
the mark of a release ("Forging the Unforgeable", arXiv:2411.15450, does so to six methods). Two things speak against a
forgery: the pattern moves other benign models too, unless the forger picks benign models that it does not move; and it
cannot have been committed to before there was a model.
"""

from __future__ import annotations

import torch
from medmark.components.surrogate.networks import Classifier
from torch.nn import functional as F


def forged_mark(
    models: list[Classifier], images: torch.Tensor, *, target: int, epsilon: float = 0.07, steps: int = 100
) -> torch.Tensor:
    """Finds one pattern that makes models take images for the target class.

    Signed gradient ascent on the mean log-probability of the target, projected to the ball of ``epsilon``
    (Moosavi-Dezfooli et al. 2017 call the pattern a universal perturbation; the plain ascent is Madry et al.'s 2018).

    Args:
        models: to be fooled together; their weights are not changed.
        images: (N, 1, S, S) in [0, 1] to find it on.
        target: class.
        epsilon: largest change of a pixel, share of the range; that of the release's marks by default.
        steps: of ascent, each 2.5 epsilon / steps long as Madry et al. do. Arbitrary.

    Returns:
        (1, 1, S, S), to be added to images.
    """
    delta = torch.zeros_like(images[:1], requires_grad=True)
    wanted = torch.full((len(images),), target)
    for _ in range(steps):
        shown = (images + delta).clamp(0, 1)
        losses = (F.cross_entropy(model.eval()(shown), wanted) for model in models)
        loss = sum(losses, start=torch.zeros(()))
        (slope,) = torch.autograd.grad(loss, delta)
        with torch.no_grad():
            delta -= 2.5 * epsilon / steps * slope.sign()
            delta.clamp_(-epsilon, epsilon)
    return delta.detach()
