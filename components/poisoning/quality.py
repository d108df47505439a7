"""How like a marked image is to its original."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from medmark.components.dataset.codecs import decode_png
from medmark.components.dataset.display import to_unit
from medmark.components.dataset.release import Record

LPIPS_REASON = (
    "LPIPS needs the weights of a network that medmark does not ship; MEDMARK_LPIPS_WEIGHTS names a file with them"
)


SHOWN = ("psnr", "ssim", "haarpsi")
STORED = ("stored_psnr", "stored_ssim")


def compare(clean: Record, marked: Record) -> dict[str, Any]:
    """Digests and likeness of an image before and after, as shown and as stored.

    What a narrow window hides or a wide one exaggerates is in the stored values all the same.

    Returns:
        ``clean_sha256``, ``marked_sha256``, what :func:`likeness` says of the images as shown, ``stored_psnr`` and
        ``stored_ssim`` of the stored values, and ``largest_change`` of one of them; these three on the scale of the clean
        image's own values, 0 for its smallest and 1 for its largest.
    """
    pixels = [decode_png(record.image) for record in (clean, marked)]
    shown = [to_unit(p, r.bits, r.display) for p, r in zip(pixels, (clean, marked), strict=True)]
    low, reach = float(pixels[0].min()), max(1.0, float(np.ptp(pixels[0])))
    stored = [((p.astype(np.float64) - low) / reach).astype(np.float32) for p in pixels]
    alike = likeness(*(np.clip(image, 0, 1) for image in stored))
    return {
        "clean_sha256": clean.sha256,
        "marked_sha256": marked.sha256,
        **likeness(*shown),
        "stored_psnr": alike["psnr"],
        "stored_ssim": alike["ssim"],
        "largest_change": float(np.abs(stored[1] - stored[0]).max()),
    }


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
    import piq  # with torchvision: takes seconds, and a report or a run's table needs constants of this room only
    from medmark.components.poisoning.lpips import lpips

    x, y = (torch.from_numpy(np.ascontiguousarray(a))[None, None].float() for a in (marked, clean))
    squared = float(((x - y) ** 2).mean())
    return {
        "psnr": 99.0 if squared == 0 else float(-10 * np.log10(squared)),
        # piq would otherwise shrink images over 256 px before comparing, which hides fine changes
        "ssim": float(piq.ssim(x, y, data_range=1.0, downsample=False)),
        "haarpsi": float(piq.haarpsi(x, y, data_range=1.0)),
        "lpips": lpips(y, x),
    }


def sum_up(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and worst values of :func:`compare` over images, as in ``verdict.json``."""
    known = [key for key in (*SHOWN, *STORED) if all(row.get(key) is not None for row in rows)]  # old ledgers lack some
    mean = {key: float(np.mean([row[key] for row in rows])) for key in known}
    worst = {key: float(np.min([row[key] for row in rows])) for key in known}
    if STORED[0] in known:
        worst["largest_change"] = float(max(row["largest_change"] for row in rows))
    measured = [row["lpips"] for row in rows]
    if None in measured:  # without weights, or some rows are of a release that was made without
        return {**mean, "lpips": None, "lpips_reason": LPIPS_REASON, "worst": worst}
    return {**mean, "lpips": float(np.mean(measured)), "lpips_reason": None, "worst": {**worst, "lpips": max(measured)}}
