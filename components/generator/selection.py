"""Which training images carry the mark, and which a decoy."""

from __future__ import annotations

import numpy as np
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.arrays import ImageArrays
from medmark.components.surrogate.networks import Classifier
from medmark.components.surrogate.training import predict_probabilities

MAX_SHARE_OF_CLASS = 0.9  # with all of a class marked, nothing clean is left to learn it from; ours


def select(
    arrays: ImageArrays,
    panel: list[Classifier],
    *,
    target: int,
    marked_share: float,
    decoy_share: float,
    seed: int,
    left_alone: frozenset[str] = frozenset(),
) -> dict[str, str]:
    """Chooses the images to change.

    The mark goes to the target images that benign models find hardest: what a model cannot explain by the anatomy it
    explains by the mark. Measured: benchmarks/results/frontier_kermany.json, "share 0.15" against
    "random choice". Decoys go to random images of the other classes.

    Args:
        arrays: training images.
        panel: benign classifiers.
        target: class index.
        marked_share: of the training images.
        decoy_share: of the training images.
        seed: of the decoys' choice.
        left_alone: ids of images that are not to be changed.

    Returns:
        ``"mark"`` or ``"decoy"`` by image id.

    Raises:
        MedmarkError: the shares ask for more images than there are.
    """
    labels, free = arrays.labels.numpy(), np.array([i not in left_alone for i in arrays.image_ids], bool)
    of_target, of_others = np.flatnonzero((labels == target) & free), np.flatnonzero((labels != target) & free)
    marked, decoys = round(marked_share * len(arrays)), round(decoy_share * len(arrays))
    if marked < 1 or marked > MAX_SHARE_OF_CLASS * len(of_target):
        raise MedmarkError(
            f"marked_share {marked_share:g} asks for {marked} of {len(of_target)} training images of the target class"
            f" that occur once; choose at most {MAX_SHARE_OF_CLASS * len(of_target) / len(arrays):.2f}"
        )
    if decoys > len(of_others):
        raise MedmarkError(f"decoy_share {decoy_share:g} asks for {decoys} of {len(of_others)} images; choose less")
    certainty = np.mean([predict_probabilities(m, arrays.images[of_target])[:, target] for m in panel], axis=0)
    hardest = of_target[np.argsort(certainty, kind="stable")[:marked]]
    drawn = np.random.default_rng(seed).choice(of_others, decoys, replace=False)
    roles = {arrays.image_ids[i]: "mark" for i in hardest}
    return roles | {arrays.image_ids[i]: "decoy" for i in drawn}
