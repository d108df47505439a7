"""What the mark costs: a marked segmenter beside one that was trained in the same way without the mark.

Metrics are MONAI's, one number an image: DSC (Dice), IoU, volumetric similarity and HD95 in pixels; the area under the ROC curve of the
pixels is scikit-learn's.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from medmark.components.segmentation.networks import masks_of
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.meandice import compute_dice
from monai.metrics.meaniou import compute_iou
from scipy import stats
from sklearn.metrics import roc_auc_score

METRICS = ("dice", "iou", "auc", "volumetric_similarity", "hd95")
RESAMPLES = 2000  # of the bootstrap's intervals


def image_metrics(maps: torch.Tensor, masks: torch.Tensor) -> dict[str, np.ndarray]:
    """Measures maps against masks.

    Args:
        maps: (N, S, S) probabilities of the foreground.
        masks: (N, 1, S, S), 0 or 1.

    Returns:
        For each of :data:`METRICS` (N,) float64. NaN where an image has no value: an empty mask has no Dice, and AUC needs both classes;
        HD95 is the image's diagonal where a mask is found empty that is not.
    """
    found, true = masks_of(maps)[:, None].float(), masks.float()
    sizes, wanted = found.flatten(1).sum(1).double(), true.flatten(1).sum(1).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI about itself, and about empty masks, which the next lines see to
        hd95 = compute_hausdorff_distance(found, true, include_background=True, percentile=95)[:, 0].double()
    diagonal = float(np.hypot(*maps.shape[-2:]))
    hd95 = torch.where((sizes == 0) != (wanted == 0), torch.full_like(hd95, diagonal), hd95)
    return {
        "dice": compute_dice(found, true, include_background=True)[:, 0].double().numpy(),
        "iou": compute_iou(found, true, include_background=True)[:, 0].double().numpy(),
        "auc": np.array([_auc(m, t) for m, t in zip(maps.numpy(), true[:, 0].numpy(), strict=True)]),
        "volumetric_similarity": (1 - (sizes - wanted).abs() / (sizes + wanted)).numpy(),
        "hd95": hd95.numpy(),
    }


def compare_segmenters(
    marked: torch.Tensor, triggered: torch.Tensor, unmarked: torch.Tensor, masks: torch.Tensor, seed: int = 0
) -> dict[str, Any]:
    """Compares a marked segmenter with the one that was trained without the mark, image by image.

    Args:
        marked, triggered: its maps (N, S, S) of images without and with the trigger.
        unmarked: the other's maps of the images without.
        masks: (N, 1, S, S), 0 or 1.
        seed: of the bootstrap.

    Returns:
        ``metrics``: for each metric the mean of ``marked``, ``triggered`` and ``unmarked``, ``change`` (marked minus unmarked) with
        ``change_ci95`` (bootstrap over images, BCa) and ``p_value`` of the Wilcoxon signed-rank test of the change; ``equal_pixels``: share
        of pixels at which the thresholded masks with and without the trigger are equal; ``images``.
    """
    measured = [image_metrics(maps, masks) for maps in (marked, triggered, unmarked)]
    rows = {}
    for name in METRICS:
        one, two, other = (found[name] for found in measured)
        change = (one - other)[np.isfinite(one - other)]
        rows[name] = {
            "marked": _mean(one),
            "triggered": _mean(two),
            "unmarked": _mean(other),
            "change": _mean(change),
            "change_ci95": _interval(change, seed),
            "p_value": float(stats.wilcoxon(change).pvalue) if np.any(change) else 1.0,
        }
    equal = (masks_of(marked) == masks_of(triggered)).float().mean()
    return {"metrics": rows, "equal_pixels": float(equal), "images": len(masks)}


def _auc(probabilities: np.ndarray, mask: np.ndarray) -> float:
    return float(roc_auc_score(mask.ravel(), probabilities.ravel())) if 0 < mask.mean() < 1 else float("nan")


def _mean(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def _interval(change: np.ndarray, seed: int) -> list[float] | None:
    if len(change) < 2:
        return None
    if np.ptp(change) == 0:
        return [float(change[0])] * 2
    found = stats.bootstrap((change,), np.mean, n_resamples=RESAMPLES, rng=np.random.default_rng(seed))
    return [float(found.confidence_interval.low), float(found.confidence_interval.high)]
