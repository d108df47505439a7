"""The report: one HTML file that opens without a network."""

from __future__ import annotations

from pathlib import Path

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
    robustness_curves,
    saliency_png,
)

HEADLINES = {
    "owned": ("good", "The mark works and accuses nobody wrongly"),
    "not_owned": ("bad", "The mark does not work: do not publish this release"),
    "inconclusive": ("open", "The check is inconclusive: do not rely on this mark yet"),
}


def write_report(
    out_html: str | Path,
    *,
    verdict: dict,
    pictures: list[Picture],
    histories: dict[str, list[dict]],
    scores: pd.DataFrame,
    parameters: dict[str, object],
) -> None:
    """Writes the report of a marked release.

    All text that comes from data (names, ids, reasons) is escaped, and the page forbids the browser to load anything.

    Args:
        out_html: file to write.
        verdict: content of ``verdict.json``.
        pictures: images to show.
        histories: ``generator``: dicts with ``step`` and the objective's terms; others: dicts with ``epoch`` and
            ``val_accuracy``; models trained on the release are called ``victim...``.
        scores: see :func:`medmark.components.verification.scenarios.verify`.
        parameters: of the run; no secrets.
    """
    tone, headline = HEADLINES[verdict["verdict"]]
    target = verdict["dataset"]["target_class"]
    figures = {
        "histograms": histograms(scores, target),
        "robustness": robustness_curves(verdict["robustness"], target),
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
            sentences=sentences(verdict),
            proofs=proofs(verdict),
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


def sentences(verdict: dict) -> list[str]:
    """What follows from the verdict, said without terms of art."""
    benign, trigger = verdict["independent_models"], verdict["independent_trigger"]
    found = [marked_model["verdict"] == "owned" for marked_model in verdict["victims"]]
    if verdict["verdict"] == "owned":
        return [
            f"Each of the {len(found)} models that were trained on this release as a test was recognised; none of"
            f" {benign['count']} benign models was accused; another generator's mark set nothing off.",
            "Whoever holds the private evidence can recognise models of this kind when they are trained on this release.",
        ]
    said = [f"{sum(found)} of {len(found)} models that were trained on this release as a test passed every proof."]
    if benign["accused"]:
        said.append(f"{benign['accused']} of {benign['count']} benign models would be wrongly accused.")
    if trigger["accused"]:
        said.append(f"{trigger['accused']} of {len(found)} models also react to another generator's mark.")
    if verdict["verdict"] == "inconclusive" and not benign["accused"]:
        said.append("No proof failed, but not every proof could be had: that is not enough to accuse anybody.")
    return [*said, "What failed or is missing:"]


def proofs(verdict: dict) -> list[dict[str, str]]:
    """The table of proofs: name, value, what was needed, whether it holds, and the meaning in one sentence."""
    m, limits = verdict["malicious"], verdict["thresholds"]
    benign, trigger = verdict["independent_models"], verdict["independent_trigger"]
    alpha, tau, level = limits["alpha"], limits["tau"], limits["conformal_alpha"]
    low, high = m["delta_p_ci95"]

    def below(p: float) -> str:
        return "yes" if p < alpha else "no"

    rank = "no" if m["conformal_p_value"] > max(level, m["conformal_resolution"]) else "yes"
    if rank == "yes" and m["conformal_resolution"] > level:
        rank = "open"
    if trigger["delta_p"] is None:
        beyond, beyond_state = "none tried", "open"
    else:
        p = max(m["contrast_t_p_value"], m["contrast_bound_p_value"])
        beyond, beyond_state = f"{m['contrast_delta_p']:.2f}, p {_equals(p)}", below(p)
    fired = "none tried" if trigger["delta_p"] is None else f"{trigger['delta_p']:+.2f}"
    rows = [
        ("Success rate of the mark", percent(m["wsr"]), "", "",
         "Share of marked images that the model takes for the target class;"
         f" without the mark it is {percent(m['clean_rate'])}."),
        ("Lift of the probability", f"{m['delta_p']:.2f} ({low:.2f} to {high:.2f})", "", "",
         "How much the mark raises the model's probability of the target class, on average over images (0 to 1), and"
         " the range in which that average lies with 95 % confidence."),
        ("Lift is real: t-test", f"p {_equals(m['t_p_value'])}", f"< {alpha:g}", below(m["t_p_value"]),
         f"Chance of such a delta-P on these images if the true lift were no more than {tau:g}."),
        ("Lift is real: rank test", f"p {_equals(m['wilcoxon_p_value'])}", f"< {alpha:g}",
         below(m["wilcoxon_p_value"]),
         "The same by another test (Wilcoxon's), which a few extreme images cannot sway."),
        ("Lift is real: bound", f"p {_equals(m['bound_p_value'])}", f"< {alpha:g}", below(m["bound_p_value"]),
         "The same by a bound that holds however the lifts are spread; the two above can be fooled by odd shapes."),
        ("Answers alone suffice", f"p {_equals(m['label_only_p_value'])}", f"< {alpha:g}",
         below(m["label_only_p_value"]),
         "The same when the model gives only its answer and no probability: chance of so many changed answers in a"
         " model that changes them as often as benign ones may."),
        ("Stands out from the benign", f"p = {m['conformal_p_value']:.3f}", f"≤ {level:g}", rank,
         f"Chance that a model made like the {benign['count']} benign ones would react at least as strongly; with"
         f" so many it can be shown to be {m['conformal_resolution']:.3f} at the lowest."),
        ("Benign models accused", f"{benign['accused']} of {benign['count']}", "0",
         "no" if benign["accused"] else "yes",
         f"Each was audited like a suspect; the largest delta-P among them is {benign['max_delta_p']:+.3f}."),
        ("Another generator's mark", fired, "no effect",
         "open" if trigger["delta_p"] is None else "no" if trigger["accused"] else "yes",
         "Largest lift by a mark made from another secret key: a model that reacts to any faint pattern would react"
         " to this one too."),
        ("More than another mark", beyond, f"< {alpha:g}", beyond_state,
         f"How much further than the other mark this one raises the probability, and the chance of that if the true gap"
         f" were no more than {tau:g}."),
    ]  # fmt: skip
    return [dict(zip(("name", "value", "needed", "state", "meaning"), row, strict=True)) for row in rows]


def models(verdict: dict) -> list[dict]:
    """Every audit, strongest reaction first, with what is expected of it."""
    rows = [(True, m) for m in verdict["victims"]] + [(False, m) for m in verdict["independent_models"]["models"]]
    return [
        {
            **m,
            "accused": f"{'no' if m['failed'] else 'yes'} ({'trained on the release' if guilty else 'benign'})",
            "state": "yes" if guilty != bool(m["failed"]) else "no",
        }
        for guilty, m in sorted(rows, key=lambda row: -row[1]["delta_p"])
    ]


def at_half_side(robustness: list[dict]) -> dict | None:
    """Mean target rates of the models trained on the release after halving the images' side; None if not measured."""
    wanted = ("resize", 0.5, "victim")
    rows = [r for r in robustness if (r["processing"], r["strength"], r["role"]) == wanted]
    if not rows:
        return None
    return {
        "marked": sum(r["wsr"] for r in rows) / len(rows),
        "clean": sum(r["clean_rate"] for r in rows) / len(rows),
    }


def _equals(p: float) -> str:
    text = p_value(p)
    return text if text.startswith("<") else f"= {text}"
