"""Logos, and putting one onto an image.

A logo is RGBA. It is put onto the image as a viewer shows it, with the opacity ``alpha`` of 255 on top of the logo's own, and written
back into stored values at native depth, so window, rescale and MONOCHROME1 keep their meaning.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from medmark.components.base.digests import file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.base.text import printable, reason_of
from medmark.components.dataset.dicom import shown_window
from PIL import Image, ImageDraw, ImageFont

MAX_SIDE = 2048  # arbitrary bound on a user's file, pixels
TEXT_PX = 96  # height of the letters of a text logo; arbitrary
EDGE = TEXT_PX // 4  # of the plate around them
DARK, WHITE = (20, 30, 60, 255), (255, 255, 255, 255)
MAX_TEXT = 24
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True, eq=False)
class Logo:
    """A logo.

    Attributes:
        pixels: (H, W, 4) uint8, RGBA.
    """

    pixels: np.ndarray

    @property
    def digest(self) -> str:
        """SHA-256 of size and pixels, hex: the logo's id in certificates."""
        head = f"{self.pixels.shape[0]}x{self.pixels.shape[1]}:".encode()
        return hashlib.sha256(head + self.pixels.tobytes()).hexdigest()

    def png(self) -> bytes:
        """The logo as PNG."""
        stream = io.BytesIO()
        Image.fromarray(self.pixels).save(stream, "PNG")
        return stream.getvalue()


def text_logos(text: str) -> tuple[Logo, Logo]:
    """Draws a text in white on a dark plate and in dark on a white plate, in lines that make it about as wide as high.

    With one of them alone, classifiers can take every logo for the same finding. The design is ours.

    Args:
        text: 1 to 24 printable characters; lines break at spaces.

    Raises:
        MedmarkError: it is empty, too long, or holds characters that cannot be drawn.
    """
    words = text.split(" ")
    if not 1 <= len(text) <= MAX_TEXT or printable(text) != text or not text.strip():
        raise MedmarkError(f"text for a logo: {printable(text)!r}; use 1 to {MAX_TEXT} printable characters")
    font = ImageFont.load_default(TEXT_PX)
    drawing = ImageDraw.Draw(Image.new("RGBA", (1, 1)))

    def lay_out(lines: int) -> tuple[str, tuple[float, float, float, float]]:
        at = [round(i * len(words) / lines) for i in range(lines + 1)]
        laid = "\n".join(" ".join(words[a:b]) for a, b in pairwise(at))
        return laid, drawing.multiline_textbbox((0, 0), laid, font=font, align="center", spacing=EDGE)

    laid, (left, top, right, bottom) = min(
        (lay_out(lines) for lines in range(1, len(words) + 1)),
        key=lambda made: abs(math.log((made[1][2] - made[1][0]) / (made[1][3] - made[1][1]))),
    )

    def drawn(plate: tuple[int, ...], ink: tuple[int, ...]) -> Logo:
        image = Image.new("RGBA", (int(right - left) + 2 * EDGE, int(bottom - top) + 2 * EDGE), plate)
        at = (EDGE - left, EDGE - top)
        ImageDraw.Draw(image).multiline_text(at, laid, font=font, align="center", spacing=EDGE, fill=ink)
        return Logo(np.asarray(image))

    return drawn(DARK, WHITE), drawn(WHITE, DARK)


def read_logo(path: str | Path) -> Logo:
    """Reads a logo from a PNG file of up to 2048 pixels a side; without an alpha channel it is opaque.

    Raises:
        MedmarkError: no such file, not a PNG, too large, or nothing of it is visible.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if max(image.size) > MAX_SIDE:
                raise MedmarkError(
                    f"logo too large: {path} is {image.width}x{image.height}; at most {MAX_SIDE} pixels a side"
                )
            pixels = np.asarray(image.convert("RGBA"))
    except (OSError, ValueError, SyntaxError) as error:
        raise MedmarkError(f"no logo: {path} ({reason_of(error)}); supply a PNG file") from error
    if not pixels[..., 3].any():
        raise MedmarkError(f"invisible logo: {path} is transparent everywhere; supply another")
    return Logo(pixels)


def read_logos_of(files: Iterable[tuple[str | Path, str]]) -> tuple[Logo, ...]:
    """Reads logos from PNG files, each with the SHA-256 that it must have.

    Raises:
        MedmarkError: as of :func:`read_logo`, or a file is another one.
    """
    logos = []
    for path, sha256 in files:
        logos.append(read_logo(path))
        if file_sha256(path) != sha256:
            raise MedmarkError(f"logo was changed: {path} is not the file that was given; start the run again")
    return tuple(logos)


@lru_cache(maxsize=512)
def fitted(logo: Logo, height: int, width: int, channels: int) -> np.ndarray:
    """Returns the logo at another size, its colours multiplied by its opacity.

    Args:
        logo: any.
        height, width: pixels.
        channels: 3, or 1 for the luminance (ITU-R BT.601).

    Returns:
        (height, width, channels + 1) float32 in [0, 1]; the last channel is the opacity.
    """
    pixels = logo.pixels.astype(np.float32) / 255
    # premultiplied, so that the colour of transparent pixels does not bleed in
    pixels[..., :3] *= pixels[..., 3:]
    resized = [
        np.asarray(Image.fromarray(pixels[..., c]).resize((width, height), Image.Resampling.BOX)) for c in range(4)
    ]
    colours = resized[:3] if channels == 3 else [np.tensordot(LUMINANCE, np.stack(resized[:3]), 1)]
    return np.clip(np.stack([*colours, resized[3]], axis=-1), 0, 1).astype(np.float32)


def put(
    pixels: np.ndarray,
    bits: int,
    display: dict[str, Any] | None,
    logo: Logo,
    *,
    box: tuple[int, int, int, int],
    alpha: int,
) -> np.ndarray:
    """Puts a logo onto an image.

    Args:
        pixels: (H, W) or (H, W, 3) stored values.
        bits: significant bits of a stored value.
        display: DICOM display attributes, or None.
        logo: any; on a grey image its luminance counts.
        box: x, y, width and height of the place, pixels; inside the image.
        alpha: opacity, 0 to 255.

    Returns:
        Stored values, equal to ``pixels`` outside the box.
    """
    x, y, width, height = box
    channels = 1 if pixels.ndim == 2 else 3
    rgba = fitted(logo, height, width, channels) * np.float32(alpha / 255)
    colour, opacity = (rgba[..., 0], rgba[..., 1]) if channels == 1 else (rgba[..., :3], rgba[..., 3:])
    out, inside = pixels.copy(), np.s_[y : y + height, x : x + width]
    window = shown_window(bits, display)
    old = pixels[inside].astype(np.float64)
    shown = np.clip((old - window.low) / window.span, 0, 1)
    if window.inverted:
        shown = 1 - shown
    new = shown * (1 - opacity) + colour
    new = 1 - new if window.inverted else new
    stored = np.clip(np.round(window.low + new * window.span), 0, 2**bits - 1)
    # where the logo is transparent, values outside the window stay what they are
    touched = np.broadcast_to(opacity > 0, stored.shape)
    out[inside] = np.where(touched, stored, old).astype(pixels.dtype)
    return out
