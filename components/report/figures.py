"""Draw the figures of the reports: images as embedded PNG, charts as SVG."""

from __future__ import annotations

import io
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from medmark.components.base.figures import BLUE, GRAY, INK, RED, STYLE, data_uri, svg
from PIL import Image

DIFFERENCE_GAIN = 10
PICTURE_SIDE = 512  # pixels; larger images are shown reduced
# what the terms of the generator's objective mean; all should fall
TERMS = {
    "twin": "Twin model's own training loss",
    "efficacy": "Marked images not yet\ntaken for the target",
    "learnability": "Mark not yet learnt\nfrom the target class",
    "panel": "Reaction of\nbenign models",
    "hard": "Marked target images easy\nfor benign models",
    "laplacian": "Fine detail in the mark",
    "perceptual": "Visible change",
}


@dataclass
class Picture:
    """One image of the report.

    Attributes:
        image_id: name.
        label: class name.
        clean: (H, W) float in [0, 1], as shown.
        marked: the same image with the mark.
        saliency: (h, w) float in [0, 1].
        note: why this image is shown.
    """

    image_id: str
    label: str
    clean: np.ndarray
    marked: np.ndarray
    saliency: np.ndarray
    note: str = ""


def gray_png(image: np.ndarray) -> str:
    """Embeds (H, W) floats in [0, 1] as PNG, its longer side at most :data:`PICTURE_SIDE`."""
    return _embed(image)


def difference_png(picture: Picture) -> str:
    """Draws marked minus clean, times :data:`DIFFERENCE_GAIN`: white is no change, red brighter, blue darker."""
    change = np.clip((picture.marked - picture.clean) * DIFFERENCE_GAIN, -1, 1)
    return _embed(mpl.colormaps["RdBu_r"](change / 2 + 0.5)[..., :3])


def saliency_png(picture: Picture) -> str:
    """Draws the saliency map over the clean image."""
    height, width = picture.clean.shape
    heat = Image.fromarray((picture.saliency * 255).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    color = mpl.colormaps["inferno"](np.asarray(heat) / 255)[..., :3]
    return _embed(0.55 * picture.clean[..., None] + 0.45 * color)


def _embed(pixels: np.ndarray) -> str:
    picture = Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8))
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return data_uri(stream.getvalue(), "image/png")


def histograms(scores: pd.DataFrame, target: str) -> bytes:
    """Draws how probable the target class is to each group of models, for clean and for marked images, as SVG."""
    scenarios = [
        ("victim", "Trained on the release,\nshown its mark", "p_marked", RED, "with the mark"),
        ("innocent", "Benign models,\nshown the mark", "p_marked", RED, "with the mark"),
        ("victim", "Trained on the release,\nshown another generator's mark", "p_control", BLUE, "with the other mark"),
    ]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 3.0))
        axes = figure.subplots(1, 3, sharey=True)
        for axis, (role, title, column, color, name) in zip(axes, scenarios, strict=True):
            part = scores[scores.role == role].dropna(subset=column)
            for wanted, fill, label in (("p_clean", GRAY, "as they are"), (column, color, name)):
                values = part[wanted]
                if len(values):
                    weights = np.full(len(values), 100 / len(values))
                    axis.hist(values, np.linspace(0, 1, 21), weights=weights, color=fill, alpha=0.65, label=label)
            axis.set(title=title, xlabel=f"probability of “{target}”", xlim=(0, 1), ylim=(0, 100))
            if len(part):
                axis.legend(loc="upper center")
            else:
                axis.text(0.5, 50, "not tried", ha="center", color=GRAY)
        axes[0].set_ylabel("% of images")
        return svg(figure)


def jpeg_and_resize_curves(rows: list[dict], target: str) -> bytes:
    """Draws the target rate of marked and of equally processed clean images against JPEG quality and size, as SVG."""
    table = pd.DataFrame(rows)
    kinds = {"resize": ("Shrinking and enlarging again", "side after shrinking, % of the original", 100),
             "jpeg": ("JPEG compression", "JPEG quality", 1)}  # fmt: skip
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 3.4))
        axes = figure.subplots(1, len(kinds), sharey=True)
        for axis, (kind, (title, label, scale)) in zip(axes, kinds.items(), strict=True):
            for role, color, name in (("victim", RED, "trained on the release"), ("innocent", BLUE, "benign")):
                part = table[(table.processing == kind) & (table.role == role)].groupby("strength")
                marked, clean = part.wsr, part.clean_rate
                x = marked.mean().index * scale
                axis.plot(x, marked.mean() * 100, color=color, marker="o", ms=4, label=f"{name}, marked")
                axis.fill_between(x, marked.min() * 100, marked.max() * 100, color=color, alpha=0.13, lw=0)
                axis.plot(x, clean.mean() * 100, color=color, ls="--", marker="o", ms=3, label=f"{name}, clean")
            axis.set(title=title, xlabel=label, ylim=(-3, 103))
            axis.invert_xaxis()
        axes[0].set_ylabel(f"% taken for “{target}”")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=4)
        return svg(figure)


def classifier_curves(histories: dict[str, list[dict]]) -> bytes:
    """Draws the validation accuracy of every classifier by epoch, as SVG.

    Args:
        histories: dicts with ``epoch`` and ``val_accuracy`` by model; names that start with ``marked`` are drawn as
            trained on the release.
    """
    benign = [history for name, history in histories.items() if not name.startswith("marked")]
    marked = [history for name, history in histories.items() if name.startswith("marked")]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 2.8))
        axis = figure.subplots()
        for group, color, alpha, label in (
            (benign, BLUE, 0.4, "trained without the mark"),
            (marked, RED, 1.0, "trained on the release"),
        ):
            for number, history in enumerate(group):
                epochs, accuracy = [h["epoch"] for h in history], [100 * h["val_accuracy"] for h in history]
                axis.plot(epochs, accuracy, color=color, alpha=alpha, lw=1.4, label=None if number else label)
        axis.set(xlabel="epoch (pass over the training images)", ylabel="accuracy, %")
        axis.legend(loc="lower right")
        return svg(figure)


def e_value_paths(paths: dict[str, list[float]], needed: float) -> bytes:
    """Draws how the evidence about one suspect grew with each image, as SVG.

    Args:
        paths: log10 of the e-values after each image, by hypothesis.
        needed: log10 of the e-value that decides.
    """
    names = {
        "effect": ("delta-P", RED, "-"),
        "contrast": ("delta-P beyond the control mark", RED, "--"),
        "labels": ("changed answers", RED, ":"),
        "against": ("no such delta-P", BLUE, "-"),
    }
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 2.8))
        axis = figure.subplots()
        for name, path in paths.items():
            label, color, style = names[name]
            axis.plot(range(1, len(path) + 1), path, color=color, ls=style, lw=1.6, label=label)
        axis.axhline(needed, color=INK, lw=0.8)
        axis.annotate(f"decides: {10**needed:,.0f}", (0.0, needed), (2, 2), xycoords=("axes fraction", "data"),
                      textcoords="offset points", fontsize=8.5, color=INK)  # fmt: skip
        low = min(min(path) for path in paths.values())
        ticks = range(int(np.floor(low)), int(np.ceil(needed)) + 2)
        axis.set_yticks(list(ticks), [f"{10.0**t:,.0f}" if t >= 0 else f"1/{10**-t:,}" for t in ticks])
        axis.set(xlabel="images asked", ylabel="e-value", xlim=(0, None), ylim=(low - 0.3, needed + 1))
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return svg(figure)


def delta_ps(benign: dict[str, float], suspects: dict[str, float]) -> bytes:
    """Draws the mean delta-P of every benign model and of each suspect on one line, as SVG."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 0.9 + 0.35 * len(suspects)))
        axis = figure.subplots()
        rows = [("benign models", list(benign.values()), BLUE)]
        rows += [(name, [value], RED) for name, value in suspects.items()]
        for y, (_, values, color) in enumerate(rows):
            axis.plot(values, [y] * len(values), "o", color=color, alpha=0.7, ms=6)
        axis.axvline(0, color=GRAY, lw=0.8)
        axis.set_yticks(range(len(rows)), [name[-60:] for name, _, _ in rows])
        axis.set(
            xlabel="mean delta-P (rise of the target's probability by the mark)",
            xlim=(-0.55, 1.05),
            ylim=(len(rows) - 0.5, -0.5),
        )
        return svg(figure)


def generator_curves(history: list[dict]) -> bytes:
    """Draws each term of the generator's objective by step, on its own scale, as SVG."""
    table = pd.DataFrame(history)
    terms = [name for name in table.columns if name != "step"]
    columns = 4
    rows = -(-len(terms) // columns)
    with mpl.rc_context(STYLE | {"font.size": 8, "axes.titlesize": 8.5}):
        figure = Figure(figsize=(10.4, 1.9 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, name in zip(axes, terms, strict=False):
            axis.plot(table["step"], table[name], color=INK, lw=1.2)
            axis.set_title(TERMS.get(name, name))
            axis.set_ylim(bottom=min(0, table[name].min()))
        for axis in axes[len(terms) :]:
            axis.set_axis_off()
        return svg(figure)
