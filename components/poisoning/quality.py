"""How like a marked image is to its original."""

from __future__ import annotations

import numpy as np
import piq
import torch
from medmark.components.poisoning.lpips import lpips

LPIPS_REASON = (
    "LPIPS needs the weights of a network that medmark does not ship; MEDMARK_LPIPS_WEIGHTS names a file with them"
)


def likeness(clean: np.ndarray, marked: np.ndarray) -> dict[str, float | None]:
    """PSNR, SSIM, HaarPSI and, where weights are given, LPIPS of one image at its own resolution.

    Args:
        clean: (H, W) float32 in [0, 1], as shown.
        marked: (H, W) likewise.

    Returns:
        ``psnr`` in dB (99 for identical images), ``ssim`` (11 px Gaussian window, Wang et al. 2004) and ``haarpsi``
        (Reisenhofer et al. 2018), by the library piq; ``lpips``, None without weights, see
        :mod:`medmark.components.poisoning.lpips`.
    """
    x, y = (torch.from_numpy(np.ascontiguousarray(a))[None, None].float() for a in (marked, clean))
    squared = float(((x - y) ** 2).mean())
    return {
        "psnr": 99.0 if squared == 0 else float(-10 * np.log10(squared)),
        # piq would otherwise shrink images over 256 px before comparing, which hides fine changes
        "ssim": float(piq.ssim(x, y, data_range=1.0, downsample=False)),
        "haarpsi": float(piq.haarpsi(x, y, data_range=1.0)),
        "lpips": lpips(y, x),
    }


def sum_up(rows: list[dict]) -> dict:
    """Means and worst values of :func:`likeness` over images, as in ``verdict.json``."""
    mean = {key: float(np.mean([row[key] for row in rows])) for key in ("psnr", "ssim", "haarpsi")}
    worst = {key: float(np.min([row[key] for row in rows])) for key in ("psnr", "ssim", "haarpsi")}
    measured = [row["lpips"] for row in rows]
    if None in measured:  # without weights, or some rows are of a release that was made without
        return {**mean, "lpips": None, "lpips_reason": LPIPS_REASON, "worst": worst}
    return {**mean, "lpips": float(np.mean(measured)), "lpips_reason": None, "worst": {**worst, "lpips": max(measured)}}
