"""The conditional U-Net that shapes the mark to each image."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1),
        nn.GroupNorm(4, outputs),
        nn.SiLU(),
        nn.Conv2d(outputs, outputs, 3, 1, 1),
        nn.GroupNorm(4, outputs),
        nn.SiLU(),
    )


class ConditionalUNet(nn.Module):
    """Image, saliency, carrier and role in; a correction of the carrier out (ours).

    Args:
        width: channels at full resolution.
    """

    def __init__(self, width: int = 16):
        super().__init__()
        w = width
        self.down0 = _block(4, w)
        self.down1 = _block(w, 2 * w, 2)
        self.down2 = _block(2 * w, 4 * w, 2)
        self.down3 = _block(4 * w, 4 * w, 2)
        self.up2 = _block(8 * w, 4 * w)
        self.up1 = _block(6 * w, 2 * w)
        self.up0 = _block(3 * w, w)
        self.out = nn.Conv2d(w, 1, 1)
        # starts at zero: the untrained mark is the carrier
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 4, S, S), S a multiple of 8, to (B, 1, S, S)."""
        d0 = self.down0(x)  # (B, w, S, S)
        d1 = self.down1(d0)  # (B, 2w, S/2, S/2)
        d2 = self.down2(d1)  # (B, 4w, S/4, S/4)
        d3 = self.down3(d2)  # (B, 4w, S/8, S/8)
        u2 = self.up2(torch.cat([_double(d3), d2], dim=1))
        u1 = self.up1(torch.cat([_double(u2), d1], dim=1))
        u0 = self.up0(torch.cat([_double(u1), d0], dim=1))
        return self.out(u0)


def _double(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
