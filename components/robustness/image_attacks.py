"""Attack single images: (N, 1, S, S) float32 in [0, 1] in and out.

An adversary can do it to what his model is asked, or to all that it is trained on and asked. Resizing and JPEG are in
:mod:`medmark.components.verification.jpeg_and_resize_curves`.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as vision

LOWEST = 3.0  # periods per side; a coarser wave is anatomy. Arbitrary; medmark's carriers have 6 to 7.5
NOTCH = 1.5  # periods per side, standard deviation: a mark that saliency confines is spread about so far. Arbitrary


def blur(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blurs by a Gaussian; ``sigma`` in pixels, above 0."""
    return vision.gaussian_blur(images, [2 * max(1, round(3 * sigma)) + 1] * 2, [float(sigma)] * 2).clamp(0, 1)


def add_noise(images: torch.Tensor, sigma: float, seed: int = 0) -> torch.Tensor:
    """Adds Gaussian noise of standard deviation ``sigma``; one seed gives the same noise to an image with and without the mark."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return (images + sigma * noise).clamp(0, 1)


def median(images: torch.Tensor, side: float) -> torch.Tensor:
    """Takes the median of a window of ``side`` pixels, a whole number."""
    return torch.from_numpy(ndimage.median_filter(images.numpy(), size=(1, 1, int(side), int(side))))


def equalize(images: torch.Tensor, share: float = 1.0) -> torch.Tensor:
    """Equalises the histogram of the whole image at 8 bits; ``share`` of the result is that, the rest the image as it was."""
    levels = vision.equalize((images * 255).round().byte()).float() / 255
    return share * levels + (1 - share) * images


def equalize_locally(images: torch.Tensor, clip: float) -> torch.Tensor:
    """Equalises locally, by OpenCV's CLAHE at 8 bits with 8x8 tiles; ``clip`` is its limit of contrast, 1 or more."""
    import cv2

    clahe = cv2.createCLAHE(clipLimit=float(clip), tileGridSize=(8, 8))
    levels = (images * 255).round().byte().numpy()[:, 0]
    return torch.from_numpy(np.stack([clahe.apply(image) for image in levels])).float()[:, None] / 255


def window(images: torch.Tensor, share: float) -> torch.Tensor:
    """Stretches the middle ``share`` (0 to 1) of each image's grey values over the whole range."""
    flat = images.flatten(1).double()
    low = flat.quantile((1 - share) / 2, dim=1)[:, None, None, None]
    high = flat.quantile((1 + share) / 2, dim=1)[:, None, None, None]
    return ((images - low) / (high - low).clamp_min(1e-6)).clamp(0, 1).float()


def find_waves(images: torch.Tensor, others: torch.Tensor, count: int) -> list[tuple[float, float]]:
    """Finds plane waves that one class's images hold more of than others do, as an adversary would that knows medmark.

    Welch's t statistic between the classes' log power spectra, peak by peak; a peak is not looked for within two notch
    widths of one already found.

    Args:
        images: (N, 1, S, S) of the class that may carry a mark, N >= 2.
        others: (M, 1, S, S) of the other classes, M >= 2.
        count: how many waves.

    Returns:
        (periods down, periods across) for each, the most conspicuous first; across is never negative.
    """

    def log_power(x: torch.Tensor) -> torch.Tensor:
        side = x.shape[-1]
        hann = torch.hann_window(side, periodic=False)
        x = (x - x.mean(dim=(2, 3), keepdim=True)) * hann[:, None] * hann[None]
        return torch.fft.rfft2(x)[:, 0].abs().square().add(1e-12).log()

    a, b = log_power(images), log_power(others)
    t = (a.mean(0) - b.mean(0)) / (a.var(0) / len(a) + b.var(0) / len(b) + 1e-12).sqrt()
    down, across = _periods(images.shape[-1], images.shape[-1])
    far = (down.square() + across.square()).sqrt() >= LOWEST
    waves: list[tuple[float, float]] = []
    for _ in range(count):
        if not far.any():
            break
        best = int(torch.where(far, t, -torch.inf).argmax())
        wave = (float(down.expand_as(t).flatten()[best]), float(across.expand_as(t).flatten()[best]))
        waves.append(wave)
        far &= _nearest(down, across, wave) > 2 * NOTCH
    return waves


def remove_waves(images: torch.Tensor, waves: list[tuple[float, float]]) -> torch.Tensor:
    """Filters waves out of the spectrum, with Gaussian notches.

    Args:
        images: (N, 1, S, S).
        waves: (periods down, periods across), see :func:`find_waves`.
    """
    side = images.shape[-1]
    border = side // 4  # mirrored, or the jump from one edge to the other would spread each wave over the spectrum
    padded = F.pad(images, (border,) * 4, mode="reflect")
    down, across = _periods(padded.shape[-1], side)
    gain = torch.ones(down.shape[0], across.shape[1])
    for wave in waves:
        gain = gain * (1 - torch.exp(-0.5 * (_nearest(down, across, wave) / NOTCH).square()))
    filtered = torch.fft.irfft2(torch.fft.rfft2(padded) * gain, s=padded.shape[-2:])
    return filtered[..., border : border + side, border : border + side].clamp(0, 1)


def remove_sector(images: torch.Tensor, width: float) -> torch.Tensor:
    """Filters every wave that runs about head to foot out of the spectrum, as an adversary would that knows medmark but not the key.

    medmark drew directions of 75 to 105 degrees before keys came from a table of all directions.

    Args:
        images: (N, 1, S, S).
        width: degrees to either side of head to foot, above 0; coarser waves than 2.5 periods a side stay.
    """
    side = images.shape[-1]
    border = side // 2 - 1
    padded = F.pad(images, (border,) * 4, mode="reflect")
    down, across = _periods(padded.shape[-1], side)
    steep = torch.rad2deg(torch.atan2(down.abs().expand(-1, across.shape[1]), across.expand(down.shape[0], -1)))
    inside = torch.sigmoid((steep - (90 - width)) / 2) * torch.sigmoid((torch.hypot(down, across) - 2.5) * 8)
    filtered = torch.fft.irfft2(torch.fft.rfft2(padded) * (1 - inside), s=padded.shape[-2:])
    return filtered[..., border : border + side, border : border + side].clamp(0, 1)


def _periods(points: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Periods per ``side`` pixels of the bins of ``rfft2`` over more points: down (points, 1), across (1, points // 2 + 1)."""
    return torch.fft.fftfreq(points)[:, None] * side, torch.fft.rfftfreq(points)[None] * side


def _nearest(down: torch.Tensor, across: torch.Tensor, wave: tuple[float, float]) -> torch.Tensor:
    """Distance of every bin to a wave or to its conjugate, in periods per side."""
    return torch.minimum(torch.hypot(down - wave[0], across - wave[1]), torch.hypot(down + wave[0], across + wave[1]))
