"""Why the detector takes an image for triggered: LIME (Ribeiro et al., KDD 2016) over a grid of squares, as StealthMark shows it.

Squares of the image are hidden at random, and a ridge regression says how much each contributes to the detector's score. For a marked segmenter
that is the square with the trigger. It explains; it proves nothing: the same procedure gives coefficients for any model, so they are only to be
read beside those of a model without the mark.
"""

from __future__ import annotations

import numpy as np
import torch
from medmark.components.segmentation.detector import Detector, uncertainty
from medmark.components.segmentation.networks import Segmenter, predict_maps
from sklearn.linear_model import Ridge
from torch.nn import functional as F

GRID = 16  # squares a side, as in the paper
SAMPLES = 800  # ours: three for each square
HIDDEN = 0.3  # ours: share of the squares that a sample hides
PENALTY = 1.0  # of the ridge regression; scikit-learn's default


def explain(model: Segmenter, detector: Detector, image: torch.Tensor, seed: int = 0) -> np.ndarray:
    """Explains the detector's score of one image.

    Args:
        model: the segmenter.
        detector: fitted on the marked segmenter's answers.
        image: (C, S, S) float32 in [0, 1], as the model is shown it. Hidden squares get the image's mean.
        seed: of the samples.

    Returns:
        (16, 16) float64: how much each square, shown, raises the score (in standard deviations of the detector's uncertainty).
    """
    rng = np.random.default_rng(seed)
    shown = rng.random((SAMPLES, GRID * GRID)) > HIDDEN
    masks = torch.from_numpy(shown.reshape(SAMPLES, 1, GRID, GRID)).float()
    masks = F.interpolate(masks, size=image.shape[-2:], mode="nearest-exact")
    images = image[None] * masks + image.mean() * (1 - masks)
    scores = (uncertainty(predict_maps(model, images)) - detector.mean) / detector.deviation
    fitted = Ridge(alpha=PENALTY).fit(shown.astype(float), scores)
    return fitted.coef_.reshape(GRID, GRID)
