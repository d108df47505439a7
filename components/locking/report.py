"""Write the report of a locked release: one HTML file that opens without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from medmark.components.base.figures import BLUE, GRAY, RED, STYLE, data_uri, picture, svg
from medmark.components.base.html import environment, percent
from medmark.components.base.private_files import write_private
from medmark.components.dataset.arrays import colour_tensor
from medmark.components.dataset.release import Record, Release
from medmark.components.locking.attacks import RADIUS, Locked, inpaint_telea
from medmark.components.locking.lesion_segmenter import load_lesion_segmenter
from medmark.components.locking.lesions import Lesions, find_lesions
from medmark.components.locking.lock import read_logos
from medmark.components.locking.locks import read_locks
from medmark.components.locking.pairs import Pair, read_pairs
from medmark.components.locking.seal import release_key
from medmark.components.locking.unlock import unlock
from medmark.components.surrogate.models import load_models

HEADLINES = {
    "locked": ("good", "The locks work: classifiers fail, no lesion is covered, and every image comes back"),
    "weak": ("open", "The images are locked and come back, but classifiers see more of them than they may"),
    "unsafe": ("bad", "Do not hand this release out: a lesion is covered, or an image does not come back"),
}
TONES = {"holds": "yes", "fails": "no", "missing": "no"}  # classes of style.j2
KINDS = {"white_box": "white box", "black_box": "black box"}
SOURCES = {
    "mask": "a mask of the release",
    "segmenter": "a segmenter that was trained on the masks of other images",
    "saliency": "saliency: a guess from where a classifier looks",
}
PICTURES = 2  # of each class
SIDE_PX = 256  # of a picture
EDGE = np.array((1.0, 0.67, 0.0))


def report_locks(
    clean_dir: str | Path,
    locked_dir: str | Path,
    evidence_dir: str | Path,
    models_dir: str | Path,
    segmenter_dir: str | Path,
    verdict: dict[str, Any],
    out_html: str | Path,
    parameters: dict[str, Any],
    *,
    mark_key: str,
) -> None:
    """Writes the report of a locked release; it shows images without their locks, so it is private.

    All text that comes from data is escaped, and the page forbids the browser to load anything.

    Args:
        clean_dir: release that was locked.
        locked_dir: the locked release.
        evidence_dir: its evidence.
        models_dir: the classifiers that it was locked against.
        segmenter_dir: the segmenter of lesions that it was locked with.
        verdict: content of ``verdict.json``.
        out_html: file to write.
        parameters: of the run; no secrets.
        mark_key: secret that it was locked with, to show unlocked images.
    """
    clean, locked = Release(clean_dir), Release(locked_dir)
    key, logos = release_key(mark_key, clean.digest), read_logos(evidence_dir)
    model, segmenter = load_models(models_dir)[0].model, load_lesion_segmenter(segmenter_dir)
    pictures, shown = [], dict.fromkeys(range(len(clean.class_names)), 0)
    for pair in read_pairs(clean, locked, read_locks(Path(evidence_dir))):
        if pair.clean.split != "test" or shown[pair.clean.label] == PICTURES:
            continue
        shown[pair.clean.label] += 1
        lesions = find_lesions(pair.clean, clean.image_mode, model, segmenter)
        opened = unlock(pair.locked, pair.lock, key, clean.image_mode)
        hidden = Locked(
            (_rgb(pair.locked, clean.image_mode) * 255).round().astype(np.uint8),
            pair.lock.box,
            logos[pair.lock.logo],
            pair.lock.alpha,
        )
        pictures.append(
            {
                "image_id": pair.clean.image_id,
                "label": clean.class_names[pair.clean.label],
                "lesions_from": lesions.source,
                "cells": [
                    ("original", picture(_rgb(pair.clean, clean.image_mode), SIDE_PX)),
                    ("lesions, with the boxes", picture(_outlined(pair, lesions, clean.image_mode), SIDE_PX)),
                    ("locked", picture(_rgb(pair.locked, clean.image_mode), SIDE_PX)),
                    ("logo inpainted (Telea)", picture(inpaint_telea(hidden, RADIUS) / 255, SIDE_PX)),
                    ("unlocked with the key", picture(_rgb(opened, clean.image_mode), SIDE_PX)),
                ],
            }
        )
        if all(count == PICTURES for count in shown.values()):
            break
    tone, headline = HEADLINES[verdict["verdict"]]
    html = (
        environment("medmark.components.locking")
        .get_template("report.html.j2")
        .render(
            v=verdict,
            tone=tone,
            headline=headline,
            tones=TONES,
            kinds=KINDS,
            sources=SOURCES,
            guessed=sum(count for source, count in verdict["lesions"]["from"].items() if source != "mask"),
            pictures=pictures,
            chart=data_uri(svg(attack_chart(verdict)), "image/svg+xml"),
            parameters=sorted(parameters.items()),
            percent=percent,
        )
    )
    write_private(out_html, html.encode())


def attack_chart(verdict: dict[str, Any]) -> Figure:
    """Draws what classifiers have right again after each attack; lines show what they have right of locked images.

    Args:
        verdict: content of ``verdict.json``.
    """
    rows = verdict["attacks"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 0.26 * len(rows) + 1.0))
        axes = figure.subplots()
        for kind, colour in (("white_box", RED), ("black_box", BLUE)):
            base = verdict["accuracy"][kind]["locked"]
            if base is None:
                continue
            values = [np.nan if row["locked"][kind] is None else 100 * row["locked"][kind] for row in rows]
            axes.axvline(100 * base, color=colour, linewidth=1, linestyle="--")
            axes.plot(values, range(len(rows)), "o", color=colour, markersize=5, label=KINDS[kind])
            clean = [np.nan if row.get("clean", {}).get(kind) is None else 100 * row["clean"][kind] for row in rows]
            axes.plot(clean, range(len(rows)), "|", color=colour, markersize=9)
        axes.set_yticks(range(len(rows)), [f"{row['attack']} {row['strength']:g}" for row in rows])
        axes.invert_yaxis()
        axes.set_xlim(-2, 102)
        axes.set_xlabel("right again, % of the images that were right before they were locked")
        axes.grid(axis="x", color=GRAY, alpha=0.25)
        axes.legend(loc="upper left", bbox_to_anchor=(0, 1.08), ncols=2)
    return figure


def _rgb(record: Record, mode: str) -> np.ndarray:
    """(H, W, 3) in [0, 1], as shown."""
    return colour_tensor(record, mode)[0].expand(3, -1, -1).permute(1, 2, 0).numpy().copy()


def _outlined(pair: Pair, lesions: Lesions, mode: str) -> np.ndarray:
    pixels = _rgb(pair.clean, mode)
    for x, y, width, height in lesions.boxes:
        bottom, right = min(y + height, pair.clean.height) - 1, min(x + width, pair.clean.width) - 1
        pixels[[y, bottom], x : right + 1] = EDGE
        pixels[y : bottom + 1, [x, right]] = EDGE
    return pixels
