"""Why the detector takes an image for triggered: LIME (Ribeiro et al., KDD 2016) over a grid of squares, as StealthMark shows it.

The trigger is taken out of squares at random, and a ridge regression says how much each square's part of it contributes to the detector's score.
(LIME hides the square instead; that alone makes any segmenter doubt.) It explains and proves nothing: the same procedure gives coefficients for
any model, so they are only to be read beside those of a model without the mark.
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
HIDDEN = 0.5  # ours: share of the squares from which a sample takes the trigger
PENALTY = 1.0  # of the ridge regression; scikit-learn's default


def explain(
    model: Segmenter, detector: Detector, clean: torch.Tensor, triggered: torch.Tensor, seed: int = 0
) -> np.ndarray:
    """Explains the detector's score of one triggered image.

    Args:
        model: the segmenter.
        detector: fitted on the marked segmenter's answers.
        clean, triggered: (C, S, S) float32 in [0, 1], the image without and with the trigger.
        seed: of the samples.

    Returns:
        (16, 16) float64: how much the trigger in each square raises the score (in standard deviations of the detector's uncertainty).
    """
    rng = np.random.default_rng(seed)
    shown = rng.random((SAMPLES, GRID * GRID)) > HIDDEN
    masks = torch.from_numpy(shown.reshape(SAMPLES, 1, GRID, GRID)).float()
    masks = F.interpolate(masks, size=clean.shape[-2:], mode="nearest-exact")
    images = triggered[None] * masks + clean[None] * (1 - masks)
    scores = (uncertainty(predict_maps(model, images)) - detector.mean) / detector.deviation
    fitted = Ridge(alpha=PENALTY).fit(shown.astype(float), scores)
    return fitted.coef_.reshape(GRID, GRID)
