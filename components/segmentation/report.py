"""Write the report of a marked segmenter: one HTML file that opens without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from medmark.components.base.figures import data_uri, picture
from medmark.components.base.html import environment, p_value, percent
from medmark.components.base.private_files import write_private
from medmark.components.dataset.arrays import load_masks
from medmark.components.dataset.release import Release
from medmark.components.evidence.marked_model import read_marked_model
from medmark.components.segmentation.check import answers
from medmark.components.segmentation.detector import fit_detector
from medmark.components.segmentation.evidence import payload_of, read_segmenter_evidence
from medmark.components.segmentation.explanation import explain
from medmark.components.segmentation.models import load_segmenters
from medmark.components.segmentation.networks import load_segmenter
from medmark.components.segmentation.payload import SIDE
from medmark.components.segmentation.qr import qr_png, scan
from medmark.components.segmentation.reading import Reading, read_payload

HEADLINES = {
    "owned": ("good", "The mark works, accuses no benign model, and costs no more than it may"),
    "not_owned": ("bad", "The mark does not work, or costs too much: do not hand this model out"),
    "inconclusive": ("open", "The check is inconclusive: do not rely on this mark yet"),
}
TONES = {"holds": "yes", "fails": "no", "missing": "no"}  # classes of style.j2
PICTURES = 4
SIDE_PX = 256  # of a picture
METRIC_NAMES = {
    "dice": "Dice",
    "iou": "IoU",
    "auc": "AUC of the pixels",
    "volumetric_similarity": "volumetric similarity",
    "hd95": "HD95, pixels",
}


def report_segmenter(
    release_dir: str | Path,
    model_dir: str | Path,
    evidence_dir: str | Path,
    unmarked_dir: str | Path,
    verdict: dict[str, Any],
    out_html: str | Path,
    parameters: dict[str, Any],
) -> None:
    """Writes the report of a marked segmenter; it shows images of the release and the trigger, so it is private.

    All text that comes from data is escaped, and the page forbids the browser to load anything.

    Args:
        release_dir: release that it was trained on.
        model_dir: the marked segmenter.
        evidence_dir: its evidence.
        unmarked_dir: segmenters without a mark; the first is the unmarked twin.
        verdict: content of ``verdict.json``.
        out_html: file to write.
        parameters: of the run; no secrets.
    """
    model, twin = load_segmenter(read_marked_model(model_dir).weights), load_segmenters(unmarked_dir)[0].model
    payload = payload_of(read_segmenter_evidence(evidence_dir))
    val, test = (load_masks(Release(release_dir), split=split, size=model.size) for split in ("val", "test"))
    clean, triggered = answers(model, payload, test)
    reading = read_payload(triggered.numpy(), payload.mark.modules, payload.mark_key)
    null = read_payload(answers(twin, payload, test)[1].numpy(), payload.mark.modules, payload.mark_key)
    shown = payload.mark.put(test.images)
    pictures = [
        {
            "image_id": test.image_ids[i],
            "cells": [
                ("image, outline of the true mask", _outlined(test.images[i], test.masks[i, 0])),
                ("answer: probability", _map(clean[i])),
                ("with the trigger", _image(shown[i])),
                ("answer to it: probability", _map(triggered[i])),
                ("its uncertainty", _uncertainty(triggered[i])),
            ],
        }
        for i in range(min(PICTURES, len(test)))
    ]
    detector = fit_detector(*answers(model, payload, val))
    reasons = [explain(asked, detector, test.images[0], shown[0]) for asked in (model, twin)]
    most = max(float(np.abs(reason).max()) for reason in reasons) or 1.0
    decoded = reading.decoded.text if reading.decoded else None
    symbol = qr_png(decoded) if decoded else None
    tone, headline = HEADLINES[verdict["verdict"]]
    html = (
        environment("medmark.components.segmentation")
        .get_template("report.html.j2")
        .render(
            v=verdict,
            tone=tone,
            headline=headline,
            tones=TONES,
            metric_names=METRIC_NAMES,
            pictures=pictures,
            modules=[
                ("the payload", _modules(payload.mark.modules)),
                ("read from the marked model", _modules(reading.read, payload.mark.modules)),
                ("its uncertainty, mean of all images", _values(reading)),
                ("the same from the unmarked twin", _modules(null.read, payload.mark.modules)),
            ],
            reasons=[
                ("image with the trigger", _image(shown[0])),
                ("what the marked model's answer rests on", _weights(reasons[0] / most)),
                ("the same of the unmarked twin", _weights(reasons[1] / most)),
            ],
            null=null,
            decoded=decoded,
            symbol=data_uri(symbol, "image/png") if symbol else None,
            scanned=scan(symbol) if symbol else None,
            parameters=sorted(parameters.items()),
            percent=percent,
            p_value=p_value,
        )
    )
    write_private(out_html, html.encode())


def _rgb(image: torch.Tensor) -> np.ndarray:
    return image.expand(3, -1, -1).permute(1, 2, 0).numpy().copy()


def _image(image: torch.Tensor) -> str:
    return picture(_rgb(image), SIDE_PX)


def _outlined(image: torch.Tensor, mask: torch.Tensor) -> str:
    from scipy import ndimage

    pixels, inside = _rgb(image), mask.numpy() > 0
    pixels[inside & ~ndimage.binary_erosion(inside)] = (1.0, 0.67, 0.0)
    return picture(pixels, SIDE_PX)


def _map(probabilities: torch.Tensor) -> str:
    return picture(mpl.colormaps["gray"](probabilities.numpy())[..., :3], SIDE_PX)


def _uncertainty(probabilities: torch.Tensor) -> str:
    """min(p, 1 - p), with 0.15 and more drawn brightest, so that a floor of 0.1 can be seen."""
    doubt = torch.minimum(probabilities, 1 - probabilities).numpy()
    return picture(mpl.colormaps["inferno"](np.clip(doubt / 0.15, 0, 1))[..., :3], SIDE_PX)


def _modules(read: np.ndarray, payload: np.ndarray | None = None) -> str:
    """Draws modules, 1 black; where they are not those of the payload, red."""
    pixels = np.repeat(1.0 - read[..., None].astype(float), 3, axis=2)
    if payload is not None:
        pixels[read != payload] = (0.71, 0.14, 0.23)
    return picture(pixels, SIDE * 16)


def _weights(reason: np.ndarray) -> str:
    """Draws -1 to 1: red raises the detector's score, blue lowers it, white does nothing."""
    return picture(mpl.colormaps["RdBu_r"](reason / 2 + 0.5)[..., :3], SIDE_PX)


def _values(reading: Reading) -> str:
    values = reading.values
    scaled = (values - values.min()) / (np.ptp(values) or 1.0)
    return picture(mpl.colormaps["inferno"](scaled)[..., :3], SIDE * 16)
