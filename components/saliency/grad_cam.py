"""EigenCAM with pytorch-grad-cam's interface, in a file of its own because loading that library takes seconds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from medmark.components.saliency.eigencam import leading_projection
from pytorch_grad_cam.base_cam import BaseCAM
from torch import nn


class EigenCAM(BaseCAM):
    """pytorch-grad-cam's interface over :func:`leading_projection`.

    Args:
        model: a network.
        target_layers: modules whose activations are read.
        reshape_transform: for transformers: (B, T, C) tokens to (B, C, H, W).

    Calling it as ``cam(images, None)`` gives (B, H, W) float32 maps in [0, 1], numpy, at the size of the images.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: list[nn.Module],
        reshape_transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ):
        super().__init__(model, target_layers, reshape_transform, uses_gradients=False)

    def get_cam_image(
        self,
        input_tensor: torch.Tensor,
        target_layer: nn.Module,
        targets: list[nn.Module],
        activations: np.ndarray | torch.Tensor,
        grads: np.ndarray | torch.Tensor | None,
        eigen_smooth: bool = False,
    ) -> np.ndarray:
        """(B, H, W) float32 map of one layer's activations, (B, C, H, W)."""
        return leading_projection(torch.as_tensor(activations)).cpu().numpy()
