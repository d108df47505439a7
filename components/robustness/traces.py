"""Measure what marking leaves behind beside the mark: statistics of one image that anybody can compute from a release.

Each answer is an AUC between images with and without the mark: 0.5 is chance, 0 and 1 are certain.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from medmark.components.base.errors import MedmarkError
from medmark.components.generator.hiding import constant_areas, jpeg_blocks_restored
from medmark.components.robustness.detection import auc
from scipy import ndimage

RINGS = ((14, 20), (20, 32), (32, 48), (48, 64), (64, 10_000))  # cycles per image side; above the mark's
GHOSTS = (26, 32, 58, 64, 70)  # cycles: where up-sampling from grids of 32 and 64 leaves ghosts of a mark of 6
BAND = "the mark's own band"


def grey_values(pixels: np.ndarray) -> float:
    """Counts the different values."""
    return float(len(np.unique(pixels)))


def gaps(pixels: np.ndarray) -> float:
    """Counts the values between the smallest and the largest that are not used."""
    values = np.unique(pixels)
    return float(int(values[-1]) - int(values[0]) + 1 - len(values))


def residues(pixels: np.ndarray, divisor: int) -> float:
    """Counts the different remainders of a division: few for values on a grid."""
    return float(len(np.unique(pixels.astype(np.int64) % divisor)))


def entropy(pixels: np.ndarray) -> float:
    """Returns the entropy of the histogram in bits."""
    share = np.unique(pixels, return_counts=True)[1] / pixels.size
    return float(-(share * np.log2(share)).sum())


def comb(pixels: np.ndarray) -> float:
    """Measures the histogram's roughness: mean size of its second differences, as a share of all pixels."""
    histogram = np.bincount(pixels.ravel().astype(np.int64) - int(pixels.min()))
    return float(np.abs(np.diff(histogram.astype(np.int64), 2)).sum() / pixels.size)


def at_end(pixels: np.ndarray, bright: bool) -> float:
    """Returns the share of pixels with the darkest or the brightest value that the image has."""
    return float((pixels == (pixels.max() if bright else pixels.min())).mean())


def constant(pixels: np.ndarray) -> float:
    """Returns the share of pixels in constant areas."""
    return float(constant_areas(pixels).mean())


def noise(pixels: np.ndarray) -> float:
    """Measures the median size of the fine structure (Laplacian of the Laplacian)."""
    return float(np.median(np.abs(ndimage.laplace(ndimage.laplace(pixels.astype(np.float64))))))


def ring(pixels: np.ndarray, low: float, high: float) -> float:
    """Returns the mean log power between two frequencies in cycles per side; 0 where the image holds none so fine."""
    power, down, across = _spectrum(pixels)
    radius = np.hypot(down, across)
    chosen = (radius >= low) & (radius < min(high, min(pixels.shape) / 2))
    return float(power[chosen].mean()) if chosen.any() else 0.0


def ghost(pixels: np.ndarray, frequency: float) -> float:
    """Measures how far the power at a frequency straight down or across stands out of its surroundings."""
    power, down, across = _spectrum(pixels)
    found = []
    for along, side in ((np.abs(down), across), (across, np.abs(down))):
        distance = np.abs(along - frequency)
        near, around = ((distance <= 2) & (side < 3), (distance > 3) & (distance <= 8) & (side < 3))
        if frequency + 8 < min(pixels.shape) / 2:
            found.append(float(power[near].mean() - power[around].mean()))
    return sum(found)


def own_band(pixels: np.ndarray) -> float:
    """Measures how far a narrow peak stands out of the band that holds every mark: all directions, 3 to 13 cycles."""
    power, down, across = _spectrum(pixels)
    radius = np.hypot(down, across)
    band = power[(radius >= 3) & (radius < 13)]
    return float(np.quantile(band, 0.99) - np.median(band))


def _spectrum(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log power of the windowed image, and the frequencies of its bins down and across, cycles per side."""
    height, width = pixels.shape
    image = pixels - pixels.mean()
    transform = np.fft.rfft2(image * np.hanning(height)[:, None] * np.hanning(width))
    down, across = np.fft.fftfreq(height, 1 / height)[:, None], np.fft.rfftfreq(width, 1 / width)[None]
    power = np.log(np.abs(transform) ** 2 + 1e-9)
    return power, np.broadcast_to(down, power.shape), np.broadcast_to(across, power.shape)


STATISTICS: dict[str, Callable[[np.ndarray], float]] = {
    "number of grey values": grey_values,
    "gaps between grey values": gaps,
    **{f"grey values modulo {n}": partial(residues, divisor=n) for n in (2, 4, 16, 257)},
    "entropy of grey values": entropy,
    "roughness of the histogram": comb,
    "darkest value": partial(at_end, bright=False),
    "brightest value": partial(at_end, bright=True),
    "constant areas": constant,
    "JPEG grid": jpeg_blocks_restored,
    "fine noise": noise,
    **{f"power from {low} cycles": partial(ring, low=low, high=high) for low, high in RINGS},
    **{f"ghost at {frequency} cycles": partial(ghost, frequency=frequency) for frequency in GHOSTS},
    BAND: own_band,
}


def traces(marked: list[np.ndarray], unmarked: list[np.ndarray]) -> dict[str, float]:
    """Measures what tells marked images from others.

    Args:
        marked: (H, W) uint8 or uint16 stored values of each image.
        unmarked: likewise; the same images without their mark, or others of their class.

    Returns:
        AUC by name of the statistic (:data:`STATISTICS`); above 0.5 it is larger in marked images.

    Raises:
        MedmarkError: there is no image of one kind.
    """
    if not marked or not unmarked:
        raise MedmarkError(f"{len(marked)} marked and {len(unmarked)} unmarked images; both kinds are needed")
    return {
        name: auc(*(np.array([statistic(image) for image in images]) for images in (marked, unmarked)))
        for name, statistic in STATISTICS.items()
    }
