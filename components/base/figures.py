"""How charts look, and how they get into a page that needs no network."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

INK, RED, BLUE, GRAY = "#1f2933", "#b4233a", "#1f5fa8", "#8a94a0"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GRAY,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "text.parse_math": False,  # names of classes and models are data: a $ in them is a $
    "svg.hashsalt": "medmark",
}


def data_uri(data: bytes, kind: str) -> str:
    """Bytes as an address that needs no network."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def svg(figure: Figure) -> bytes:
    """A chart as SVG; the same chart gives the same bytes."""
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", bbox_inches="tight", metadata={"Date": None})
    return stream.getvalue()


def picture(pixels: np.ndarray, side: int) -> str:
    """Embeds (H, W, 3) floats in [0, 1] as a square PNG, enlarged without smoothing."""
    image = Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8))
    stream = io.BytesIO()
    image.resize((side, side), Image.Resampling.NEAREST).save(stream, "PNG", optimize=True)
    return data_uri(stream.getvalue(), "image/png")
