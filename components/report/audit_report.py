"""Write the report of an audit: one HTML file that opens without a network."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from medmark.components.base.figures import data_uri
from medmark.components.base.html import environment, percent
from medmark.components.base.private_files import write_private
from medmark.components.report.figures import delta_ps, e_value_paths

HEADLINES = {
    "owned": ("bad", "Trained on the release"),
    "not_owned": ("good", "Not shown to be trained on the release"),
    "inconclusive": ("open", "Open: the evidence does not suffice either way"),
}
SENTENCES = {
    "owned": "The model reacts to the secret mark as only models trained on the release are known to, and every proof holds.",
    "by_exact_tests": "The model learned from this release: exact tests of what lots decided, which only a model that was trained on it can know, say so.",
    "not_owned": "The model does not react to the mark as a model trained on the release would. Do not accuse.",
    "inconclusive": "At least one proof could not be had. That is not enough to accuse anybody.",
}
COMMITTED = " The evidence is the one that was committed to; see below what the date of the commitment is worth."
UNCOMMITTED = " It has not been shown that this evidence was committed to before the release went out: show it before you accuse anyone."
MAX_DESCRIBED = 2000  # characters of what an endpoint says of itself that are shown; arbitrary
THRESHOLDS = {
    "alpha": "largest chance of accusing a model whose delta-P is no more than tau",
    "tau": "delta-P that a benign model may show",
    "guilty": "a suspect is cleared if its delta-P is less",
    "conformal_alpha": "level of the rank among benign models",
    "key_alpha": "level of the key's rank among all keys",
    "images_alpha": "level at which the exact tests together suffice alone",
    "min_queries": "for tests with a fixed number of images; not used here",
}


def write_audit_report(out_html: str | Path, audit: dict[str, Any]) -> None:
    """Writes the report of an audit.

    Names come from outside: all text is escaped, and the page forbids the browser to load anything.

    Args:
        out_html: file to write.
        audit: content of ``audit.json``, see :func:`medmark.components.verification.audit.audit`.
    """
    needed = math.log10(len(audit["suspects"]) / audit["thresholds"]["alpha"])
    shown = []
    for suspect in audit["suspects"]:
        tone, headline = HEADLINES[suspect["verdict"]]
        paths = suspect["path_log10"]
        figure = data_uri(e_value_paths(paths, needed), "image/svg+xml") if paths else None
        # audits of before there were variants have none, and at first it was of these alone
        together = suspect.get("together_p_value_holm", suspect.get("images_p_value_holm"))
        by_exact_tests = together is not None and together <= audit["thresholds"]["images_alpha"]
        sentence = SENTENCES["by_exact_tests" if by_exact_tests else suspect["verdict"]]
        if suspect["verdict"] == "owned":
            sentence += COMMITTED if audit["commitment"] else UNCOMMITTED
        described = json.dumps(suspect["description"], sort_keys=True) if suspect["description"] else None
        if described and len(described) > MAX_DESCRIBED:
            described = f"{described[:MAX_DESCRIBED]}… (all of it is in audit.json)"
        extra = {"tone": tone, "headline": headline, "sentence": sentence, "figure": figure, "described": described}
        shown.append(suspect | extra)
    moved = {suspect["name"]: suspect["lift"] for suspect in shown if suspect["lift"] is not None}
    html = (
        environment("medmark.components.report")
        .get_template("audit.html.j2")
        .render(
            audit=audit,
            suspects=shown,
            target=audit["target_class"],
            figure_delta_ps=data_uri(delta_ps(audit["innocent_models"]["lifts"], moved), "image/svg+xml")
            if moved
            else None,
            thresholds=sorted(audit["thresholds"].items()),
            threshold_meanings=THRESHOLDS,
            percent=percent,
        )
    )
    write_private(out_html, html.encode())
