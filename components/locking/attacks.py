"""What an adversary does to a locked image so that classifiers see it again: common processing, inpainting, and undoing a logo that is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from medmark.components.locking.lesions import Box
from medmark.components.locking.logo import Logo, fitted

RADIUS = 3  # pixels that inpainting looks at, OpenCV's usual value
LEAST_SEEN = (
    1 / 16
)  # share of the image that must show through the logo to be undone: below, 8 bits leave nothing; ours


@dataclass(frozen=True)
class Locked:
    """A locked image as shown, and what its certificate says; the place anybody can see, logo and opacity only whoever has them.

    Attributes:
        pixels: (H, W) or (H, W, 3) uint8.
        box: x, y, width and height of the logo.
        logo: that is there.
        alpha: its opacity, 0 to 255.
    """

    pixels: np.ndarray
    box: Box
    logo: Logo
    alpha: int


def jpeg(image: Locked, quality: float) -> np.ndarray:
    """Encodes as JPEG of this quality, 1 to 95, and decodes it again."""
    _, data = cv2.imencode(".jpg", _bgr(image.pixels), [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    return _bgr(np.asarray(cv2.imdecode(data, cv2.IMREAD_UNCHANGED)))


def resize(image: Locked, factor: float) -> np.ndarray:
    """Makes the image smaller, by averaging, and as large as before."""
    height, width = image.pixels.shape[:2]
    small = cv2.resize(
        image.pixels, (max(8, round(width * factor)), max(8, round(height * factor))), interpolation=cv2.INTER_AREA
    )
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def crop(image: Locked, share: float) -> np.ndarray:
    """Cuts this share of each side off at both of its ends."""
    height, width = image.pixels.shape[:2]
    rows, columns = round(share * height), round(share * width)
    return image.pixels[rows : height - rows, columns : width - columns]


def blur(image: Locked, share: float) -> np.ndarray:
    """Blurs with a Gaussian whose sigma is this share of the longer side."""
    return cv2.GaussianBlur(image.pixels, (0, 0), share * max(image.pixels.shape[:2]))


def equalise(image: Locked, _: float) -> np.ndarray:
    """Equalises the histogram of the luminance."""
    if image.pixels.ndim == 2:
        return cv2.equalizeHist(image.pixels)
    parts = list(cv2.split(cv2.cvtColor(image.pixels, cv2.COLOR_RGB2YCrCb)))
    parts[0] = cv2.equalizeHist(parts[0])
    return cv2.cvtColor(cv2.merge(parts), cv2.COLOR_YCrCb2RGB)


def inpaint_telea(image: Locked, radius: float) -> np.ndarray:
    """Fills the logo's place from around it (Telea, 2004)."""
    return cv2.inpaint(image.pixels, _mask(image), radius, cv2.INPAINT_TELEA)


def inpaint_navier_stokes(image: Locked, radius: float) -> np.ndarray:
    """Fills the logo's place from around it (Bertalmio and others, 2001)."""
    return cv2.inpaint(image.pixels, _mask(image), radius, cv2.INPAINT_NS)


def undo(image: Locked, _: float) -> np.ndarray:
    """Takes the logo off as an adversary can who has its certificate: solves for what shows through, and fills what does not."""
    x, y, width, height = image.box
    grey = image.pixels.ndim == 2
    drawn = fitted(image.logo, height, width, 1 if grey else 3) * np.float32(image.alpha / 255)
    opacity = drawn[..., -1]
    unseen = np.zeros(image.pixels.shape[:2], np.uint8)
    unseen[y : y + height, x : x + width] = 1 - opacity < LEAST_SEEN
    out = image.pixels.astype(np.float32)
    inside = out[y : y + height, x : x + width] / 255
    through = np.maximum(1 - opacity, LEAST_SEEN)
    colour, through = (drawn[..., 0], through) if grey else (drawn[..., :3], through[..., None])
    inside = (inside - colour) / through
    out[y : y + height, x : x + width] = np.clip(inside, 0, 1) * 255
    return cv2.inpaint(out.round().astype(np.uint8), unseen, RADIUS, cv2.INPAINT_TELEA)


def _mask(image: Locked) -> np.ndarray:
    x, y, width, height = image.box
    mask = np.zeros(image.pixels.shape[:2], np.uint8)
    mask[y : y + height, x : x + width] = 1
    return mask


def _bgr(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[..., ::-1])


# function and strengths, from little to much, by the name that reports show
ATTACKS: dict[str, tuple[Callable[[Locked, float], np.ndarray], tuple[float, ...]]] = {
    "JPEG, quality": (jpeg, (90, 70, 50, 30, 10)),
    "resizing, factor": (resize, (0.75, 0.5, 0.25)),
    "cropping, share of each edge": (crop, (0.05, 0.1, 0.2)),
    "blur, sigma by side": (blur, (0.005, 0.01, 0.02)),
    "histogram equalisation": (equalise, (1,)),
    "inpainting (Telea), radius": (inpaint_telea, (RADIUS,)),
    "inpainting (Navier-Stokes), radius": (inpaint_navier_stokes, (RADIUS,)),
    "undoing with the certificate": (undo, (1,)),
}
