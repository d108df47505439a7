"""What every method of marking a data set has in common, so that all can be compared on the same images.

A method is fitted to a :class:`Context` and then marks images: training images in the role ``mark``, the images that a
suspect is asked about in the role ``query``. What happens to the labels of marked training images is the method's
:class:`Labels`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

import numpy as np
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.arrays import ImageArrays
from medmark.components.generator.selection import MAX_SHARE_OF_CLASS, select
from medmark.components.surrogate.networks import Classifier

# (B, 1, S, S) images in [0, 1], (B, 1, 32, 32) saliency in [0, 1] and the role, to marked images
Mark = Callable[[torch.Tensor, torch.Tensor, str], torch.Tensor]

BATCH = 64  # images marked at once; bounds the memory


class Labels(Enum):
    """What a method does to the labels of the images that it marks."""

    KEEP = "kept (only images of the target class are marked)"
    TARGET = "set to the target class"
    OTHER = "set to a random other class"


@dataclass
class Context:
    """The data set to mark, and what its owner has at hand.

    Attributes:
        release_dir: the clean release.
        surrogates_dir: folder of the owner's classifiers.
        saliency_dir: folder of the release's saliency maps.
        work_dir: for files that a method makes.
        train: its training images, (N, 1, S, S).
        saliency: their maps, (N, 1, 32, 32) in [0, 1].
        surrogates: the owner's classifiers, trained on the clean release.
        target: class that marked images are taken for.
        share: of the training images to mark; the same for all methods.
        seed: of keys, choice of images and training.
    """

    release_dir: Path
    surrogates_dir: Path
    saliency_dir: Path
    work_dir: Path
    train: ImageArrays
    saliency: torch.Tensor
    surrogates: list[Classifier]
    target: int
    share: float
    seed: int

    @property
    def size(self) -> int:
        """Side of the images, pixels."""
        return self.train.images.shape[-1]

    @property
    def classes(self) -> int:
        """K."""
        return self.surrogates[0].num_classes


@dataclass(frozen=True)
class Method:
    """A way to mark a data set.

    Attributes:
        title: as it stands in the table.
        labels: what happens to the labels of marked training images.
        fit: makes a :data:`Mark` for a context. The second argument is 0 for the release's mark and 1 for the control, a
            second instance of the same method with another key.
        hardest: marks the target images that the surrogates find hardest, instead of random ones.
    """

    title: str
    labels: Labels
    fit: Callable[[Context, int], Mark]
    hardest: bool = False

    @property
    def clean_label(self) -> bool:
        """Whether every label stays as it was."""
        return self.labels is Labels.KEEP


def key_source(seed: int, index: int) -> np.random.Generator:
    """Returns the generator that a method draws its key from; ``index`` 0 is the release's mark, 1 the control."""
    return np.random.default_rng((seed, 79, index))


def marked(mark: Mark, images: torch.Tensor, saliency: torch.Tensor, role: str) -> torch.Tensor:
    """Marks any number of images and rounds them to 8 bits, as a release of 8-bit images holds them.

    Args:
        mark: a fitted method.
        images: (N, 1, S, S) float32 in [0, 1].
        saliency: (N, 1, 32, 32) in [0, 1].
        role: ``mark`` or ``query``.
    """
    parts = zip(images.split(BATCH), saliency.split(BATCH), strict=True)
    with torch.no_grad():
        return (torch.cat([mark(x, s, role) for x, s in parts]).clamp(0, 1) * 255).round() / 255


def choose(method: Method, context: Context) -> torch.Tensor:
    """Chooses the training images to mark; returns their positions, ascending.

    Poison-label methods draw from all classes, as the field does: among them images that have the target's label
    already.

    Raises:
        MedmarkError: the share asks for more images than there are.
    """
    labels, count = context.train.labels.numpy(), round(context.share * len(context.train))
    if method.hardest:
        roles = select(
            context.train,
            context.surrogates,
            target=context.target,
            marked_share=context.share,
            decoy_share=0.0,
            seed=context.seed,
        )
        return torch.tensor([i for i, name in enumerate(context.train.image_ids) if name in roles])
    pool = np.flatnonzero(labels == context.target) if method.clean_label else np.arange(len(labels))
    if not 1 <= count <= MAX_SHARE_OF_CLASS * len(pool):
        raise MedmarkError(
            f"share {context.share:g} asks {method.title} for {count} of {len(pool)} images; choose a share that leaves"
            f" at least {1 - MAX_SHARE_OF_CLASS:.0%} of them clean and marks at least one"
        )
    drawn = np.random.default_rng((context.seed, 80)).choice(pool, count, replace=False)
    return torch.from_numpy(np.sort(drawn))


def relabelled(labels: torch.Tensor, policy: Labels, *, target: int, classes: int, seed: int) -> torch.Tensor:
    """Returns the (N,) labels that marked training images get.

    Args:
        labels: what they were.
        policy: see :class:`Labels`.
        target: class for :attr:`Labels.TARGET`.
        classes: K.
        seed: of :attr:`Labels.OTHER`, which is uniform over the K - 1 other classes.
    """
    if policy is Labels.KEEP:
        return labels.clone()
    if policy is Labels.TARGET:
        return torch.full_like(labels, target)
    steps = np.random.default_rng((seed, 81)).integers(1, classes, size=len(labels))
    return (labels + torch.from_numpy(steps)) % classes


def poison(method: Method, mark: Mark, context: Context) -> tuple[ImageArrays, torch.Tensor]:
    """Marks training images; returns all of them as an adversary gets them, and the positions of those that are marked."""
    chosen = choose(method, context)
    images, labels = context.train.images.clone(), context.train.labels.clone()
    images[chosen] = marked(mark, images[chosen], context.saliency[chosen], "mark")
    labels[chosen] = relabelled(
        labels[chosen], method.labels, target=context.target, classes=context.classes, seed=context.seed
    )
    return replace(context.train, images=images, labels=labels), chosen
