"""How like a marked image is to its original."""

from __future__ import annotations

import numpy as np
import piq
import torch

LPIPS_REASON = (
    "LPIPS needs the weights of a network that medmark does not ship; PSNR, SSIM and HaarPSI are given instead"
)


def likeness(clean: np.ndarray, marked: np.ndarray) -> dict[str, float]:
    """PSNR, SSIM and HaarPSI of one image at its own resolution.

    Args:
        clean: (H, W) float32 in [0, 1], as shown.
        marked: (H, W) likewise.

    Returns:
        ``psnr`` in dB (99 for identical images), ``ssim`` (11 px Gaussian window, Wang et al. 2004) and ``haarpsi``
        (Reisenhofer et al. 2018), by the library piq.
    """
    x, y = (torch.from_numpy(np.ascontiguousarray(a))[None, None].float() for a in (marked, clean))
    squared = float(((x - y) ** 2).mean())
    return {
        "psnr": 99.0 if squared == 0 else float(-10 * np.log10(squared)),
        # piq would otherwise shrink images over 256 px before comparing, which hides fine changes
        "ssim": float(piq.ssim(x, y, data_range=1.0, downsample=False)),
        "haarpsi": float(piq.haarpsi(x, y, data_range=1.0)),
    }


def sum_up(rows: list[dict]) -> dict:
    """Means and worst values of :func:`likeness` over images, as in ``verdict.json``."""
    mean = {key: float(np.mean([row[key] for row in rows])) for key in ("psnr", "ssim", "haarpsi")}
    worst = {key: float(np.min([row[key] for row in rows])) for key in ("psnr", "ssim", "haarpsi")}
    return {**mean, "lpips": None, "lpips_reason": LPIPS_REASON, "worst": worst}
