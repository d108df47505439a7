"""LPIPS with weights that the user supplies; medmark ships none and fetches none.

``MEDMARK_LPIPS_WEIGHTS`` names a safetensors file with torchvision's VGG16 (``features.0.weight``, ``features.0.bias``, ... up to
``features.28``) and LPIPS's five linear layers (``lpips.0`` to ``lpips.4``, each (1, C, 1, 1) with C 64, 128, 256, 512, 512).
"""

from __future__ import annotations

import os
from functools import cache

import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.base.text import reason_of
from medmark.components.surrogate.networks import read_tensors
from piq.perceptual import VGG16_LAYERS, ContentLoss
from torchvision.models import vgg16

VARIABLE = "MEDMARK_LPIPS_WEIGHTS"
LAYERS = [VGG16_LAYERS[name] for name in ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")]  # as piq.LPIPS
LAST = 28  # of VGG16's features that these layers need


def lpips(clean: torch.Tensor, marked: torch.Tensor) -> float | None:
    """LPIPS (Zhang et al. 2018, VGG16) of two images; None if no weights are given.

    Args:
        clean: (1, 1, H, W) float32 in [0, 1].
        marked: likewise.

    Raises:
        MedmarkError: the file is missing or holds other tensors.
    """
    path = os.environ.get(VARIABLE)
    if not path:
        return None
    with torch.no_grad():
        return float(_network(path)(marked.expand(-1, 3, -1, -1), clean.expand(-1, 3, -1, -1)))


@cache
def _network(path: str) -> ContentLoss:
    tensors = read_tensors(path)
    features = vgg16(init_weights=False).features[: LAST + 2]
    try:
        features.load_state_dict({name: tensors.pop(f"features.{name}") for name, _ in features.named_parameters()})
        linear = [tensors.pop(f"lpips.{i}") for i in range(len(LAYERS))]
    except (KeyError, RuntimeError) as error:
        reason = reason_of(error)
        raise MedmarkError(f"not LPIPS's weights: {path} ({reason}); correct {VARIABLE}, or unset it") from error
    if tensors or any(w.shape != (1, c, 1, 1) for w, c in zip(linear, (64, 128, 256, 512, 512), strict=True)):
        raise MedmarkError(f"not LPIPS's weights: {path} has other tensors; correct {VARIABLE}, or unset it")
    return ContentLoss(features.eval(), layers=LAYERS, weights=linear, normalize_features=True)
