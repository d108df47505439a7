"""Write the report of a marked release: one HTML file that opens without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from medmark.components.base.figures import data_uri
from medmark.components.base.html import environment, p_value, percent
from medmark.components.base.private_files import write_private
from medmark.components.poisoning.poison import LARGEST_CHANGE, LEAST_SSIM
from medmark.components.report.figures import (
    DIFFERENCE_GAIN,
    PICTURE_SIDE,
    Picture,
    classifier_curves,
    difference_png,
    generator_curves,
    gray_png,
    histograms,
    jpeg_and_resize_curves,
    saliency_png,
)
from medmark.components.verification.verdict import Proof, is_accused, release_proofs

HEADLINES = {
    "owned": ("good", "The mark works and accuses no benign model"),
    "not_owned": ("bad", "The mark does not work: do not publish this release"),
    "inconclusive": ("open", "The check is inconclusive: do not rely on this mark yet"),
}
TONES = {"holds": "yes", "fails": "no", "missing": "no", "not shown": "", "": ""}  # classes of style.j2


def write_report(
    out_html: str | Path,
    *,
    verdict: dict[str, Any],
    pictures: list[Picture],
    histories: dict[str, list[dict[str, float]]],
    scores: pd.DataFrame,
    parameters: dict[str, Any],
) -> None:
    """Writes the report of a marked release.

    All text that comes from data (names, ids, reasons) is escaped, and the page forbids the browser to load anything.

    Args:
        out_html: file to write.
        verdict: content of ``verdict.json``.
        pictures: images to show.
        histories: ``generator``: dicts with ``step`` and the objective's terms; others: dicts with ``epoch`` and
            ``val_accuracy``; models trained on the release are called ``marked...``.
        scores: see :func:`medmark.components.verification.scenarios.verify`.
        parameters: of the run; no secrets.
    """
    tone, headline = HEADLINES[verdict["verdict"]]
    target = verdict["dataset"]["target_class"]
    figures = {
        "histograms": histograms(scores, target),
        "robustness": jpeg_and_resize_curves(verdict["robustness"], target),
        "classifiers": classifier_curves({k: h for k, h in histories.items() if k != "generator" and h}),
    }
    if histories.get("generator"):
        figures["generator"] = generator_curves(histories["generator"])
    html = (
        environment("medmark.components.report")
        .get_template("report.html.j2")
        .render(
            v=verdict,
            target=target,
            tone=tone,
            headline=headline,
            tones=TONES,
            sentences=sentences(verdict),
            proofs=proof_rows(verdict),
            models=models(verdict),
            pictures=[
                {
                    "image_id": p.image_id,
                    "label": p.label,
                    "note": p.note,
                    "clean": gray_png(p.clean),
                    "marked": gray_png(p.marked),
                    "difference": difference_png(p),
                    "saliency": saliency_png(p),
                }
                for p in pictures
            ],
            gain=DIFFERENCE_GAIN,
            side=PICTURE_SIDE,
            half=at_half_side(verdict["robustness"]),
            figures={"generator": None} | {name: data_uri(svg, "image/svg+xml") for name, svg in figures.items()},
            digests=[
                ("Digest of the release", verdict["release_digest"]),
                ("Digest of the release it was made from", verdict["parent_digest"]),
            ],
            parameters=sorted(parameters.items()),
            percent=percent,
            bounds={"ssim": LEAST_SSIM, "largest_change": LARGEST_CHANGE},
            p_value=p_value,
        )
    )
    write_private(out_html, html.encode())


def sentences(verdict: dict[str, Any]) -> list[str]:
    """Says what follows from the verdict, without terms of art."""
    benign, trigger = verdict["independent_models"], verdict["independent_trigger"]
    found = [marked_model["verdict"] == "owned" for marked_model in verdict["victims"]]
    if verdict["verdict"] == "owned":
        return [
            f"Each of the {len(found)} models that were trained on this release as a test was recognised; none of"
            f" {benign['count']} benign models was accused; another generator's mark set nothing off.",
            "With the private evidence, models of this kind can be recognised when they are trained on this release.",
        ]
    said = [f"{sum(found)} of {len(found)} models that were trained on this release as a test passed every proof."]
    if benign["accused"]:
        said.append(f"{benign['accused']} of {benign['count']} benign models would be wrongly accused.")
    if trigger["accused"]:
        said.append(f"{trigger['accused']} of {len(found)} models also react to another generator's mark.")
    if verdict["verdict"] == "inconclusive" and not benign["accused"]:
        said.append("No proof failed, but not every proof could be had. That is not enough to accuse anybody.")
    return [*said, "What failed or is missing:"]


def proof_rows(verdict: dict[str, Any]) -> list[dict[str, str]]:
    """Makes the table of proofs: name, value, what was needed, state, and the meaning in one sentence; two rows of facts first."""
    weakest = verdict["malicious"]
    low, high = weakest["delta_p_ci95"]
    facts = [
        {
            "name": "success rate of the mark (WSR)",
            "value": percent(weakest["wsr"]),
            "meaning": "Share of marked images that the model takes for the target class; without the mark it is"
            f" {percent(weakest['clean_rate'])}.",
        },
        {
            "name": "rise of the probability (delta-P)",
            "value": f"{weakest['delta_p']:.2f} ({low:.2f} to {high:.2f})",
            "meaning": "How much the mark raises the model's probability of the target class, on average over images (-1 to"
            " 1), and the range that holds that average with 95 % confidence.",
        },
    ]
    return [fact | {"needed": "", "state": ""} for fact in facts] + [_proof_row(p) for p in release_proofs(verdict)]


def _proof_row(proof: Proof) -> dict[str, str]:
    needed = proof.needed.replace("<=", "≤").replace(">=", "≥")
    shown = {"name": proof.name, "value": found(proof), "needed": needed}
    return shown | {"state": proof.state, "meaning": proof.meaning}


def found(proof: Proof) -> str:
    """Writes value and p-value of a proof into one cell."""
    cells = [proof.value] if proof.value else []
    if proof.p_value is not None:
        text = p_value(proof.p_value)
        cells.append(f"p {text}" if text.startswith("<") else f"p = {text}")
    return ", ".join(cells)


def models(verdict: dict[str, Any]) -> list[dict[str, Any]]:
    """Lists every model that was asked, strongest reaction first, with whether it would be accused."""
    rows = [(True, m) for m in verdict["victims"]] + [(False, m) for m in verdict["independent_models"]["models"]]
    shown = []
    for marked, model in sorted(rows, key=lambda row: -row[1]["delta_p"]):
        accused = is_accused(model["failed"])
        said = f"{'yes' if accused else 'no'} ({'trained on the release' if marked else 'benign'})"
        shown.append(model | {"accused": said, "state": "holds" if marked == accused else "fails"})
    return shown


def at_half_side(robustness: list[dict[str, Any]]) -> dict[str, float] | None:
    """Returns the mean target rates of the models trained on the release after halving the images' side; None if not measured."""
    wanted = ("resize", 0.5, "victim")
    rows = [r for r in robustness if (r["processing"], r["strength"], r["role"]) == wanted]
    if not rows:
        return None
    return {
        "marked": sum(r["wsr"] for r in rows) / len(rows),
        "clean": sum(r["clean_rate"] for r in rows) / len(rows),
    }
