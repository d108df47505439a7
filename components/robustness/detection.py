"""Measure whether a model or a release can be seen to be marked. Each answer is an AUC: 0.5 is chance, 1 is always."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.arrays import ImageArrays
from medmark.components.evidence.queries import QuerySet
from medmark.components.robustness.suspicion import METHODS, suspicion
from medmark.components.saliency.extract import saliency_maps
from medmark.components.surrogate.networks import Classifier
from medmark.components.surrogate.training import predict_probabilities
from scipy.stats import mannwhitneyu

CHEST = (0.15, 0.85)  # of each side; where lungs and heart are in a chest x-ray, roughly. Arbitrary
FACTORS = (3, 5, 7, 9, 11)  # Guo et al. 2023


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Returns the chance that a positive score exceeds a negative one; ties count half.

    Raises:
        MedmarkError: there is none of one kind.
    """
    if not len(positive) or not len(negative):
        raise MedmarkError(f"no AUC of {len(positive)} against {len(negative)} scores; both kinds are needed")
    return float(mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative)))


def chest_share(model: Classifier, images: torch.Tensor) -> np.ndarray:
    """Returns the share of each image's EigenCAM saliency in the middle :data:`CHEST` of both sides.

    Args:
        model: a classifier.
        images: (N, 1, S, S) float32 in [0, 1].

    Returns:
        (N,) in [0, 1]; saliency spread evenly gives 0.47, the region's share of the 32x32 map. A network whose last block
        has but 2x2 positions (resnet_tiny at 64 px) always gives 0.47: it is too coarse to say.
    """
    maps = torch.cat([saliency_maps(model, batch) for batch in images.split(64)])[:, 0]
    low, high = (round(edge * maps.shape[-1]) for edge in CHEST)
    inside = maps[:, low:high, low:high].sum(dim=(1, 2))
    return (inside / maps.sum(dim=(1, 2)).clamp_min(1e-12)).numpy()


def scale_up_scores(model: Classifier, images: torch.Tensor, factors: Sequence[float] = FACTORS) -> np.ndarray:
    """Counts how often the model keeps its answer when pixels are multiplied (Guo et al., "SCALE-UP", ICLR 2023).

    Args:
        model: a classifier.
        images: (N, 1, S, S) float32 in [0, 1].
        factors: what pixels are multiplied with, then cut off at 1.

    Returns:
        (N,) in [0, 1]; high is suspicious.
    """
    answer = predict_probabilities(model, images).argmax(1)
    kept = [predict_probabilities(model, (images * n).clamp(0, 1)).argmax(1) == answer for n in factors]
    return np.mean(kept, axis=0)


def detect(
    marked_model: Classifier,
    benign: Classifier,
    train: ImageArrays,
    marked_ids: set[str],
    queries: QuerySet,
    genuine: torch.Tensor,
    seed: int = 0,
) -> dict:
    """Measures what gives the mark away.

    Args:
        marked_model: trained on the marked release.
        benign: trained alike without the marked images.
        train: the release's training images.
        marked_ids: those that carry the mark, from the evidence.
        queries: for the saliency and SCALE-UP.
        genuine: (N, 1, S, S) images of the target class without the mark, N >= 1.
        seed: of activation clustering.

    Returns:
        ``chest_share``: mean share of saliency on the chest, by model and by clean or marked image; ``auc``: of telling
        marked from clean queries (``SCALE-UP``; where bright images all get one answer it tells classes apart, not marks)
        and from genuine target images (``SCALE-UP among target answers``), and marked from unmarked training images of the target class by each
        method of :mod:`medmark.components.robustness.suspicion`. Below 0.5, marked images look *less* suspicious.

    Raises:
        MedmarkError: all or none of the target's training images are marked.
    """
    of_target = train.subset(np.flatnonzero((train.labels == queries.target).numpy()))
    marked = np.array([image_id in marked_ids for image_id in of_target.image_ids])
    stays, clean_stays, genuine_stays = (
        scale_up_scores(marked_model, images) for images in (queries.marked, queries.clean, genuine)
    )
    aucs = {"SCALE-UP": auc(stays, clean_stays), "SCALE-UP among target answers": auc(stays, genuine_stays)}
    for method in METHODS:
        scores = suspicion(marked_model, of_target.images, of_target.labels, method, seed)
        aucs[method] = auc(scores[marked], scores[~marked])
    return {
        "chest_share": {
            name: {
                "clean": float(chest_share(model, queries.clean).mean()),
                "marked": float(chest_share(model, queries.marked).mean()),
            }
            for name, model in (("victim", marked_model), ("innocent", benign))
        },
        "auc": aucs,
    }
