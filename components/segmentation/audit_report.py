"""Write the report of an audit of segmenters: one HTML file that opens without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medmark.components.base.figures import data_uri
from medmark.components.base.html import environment
from medmark.components.base.private_files import write_private
from medmark.components.segmentation.qr import qr_png

HEADLINES = {
    "owned": ("bad", "Shows the secret payload"),
    "not_owned": ("good", "Shows no more of the payload than chance gives"),
    "inconclusive": ("open", "Open: the answers do not suffice either way"),
}
SENTENCES = {
    "owned": "The model is the marked one, or was made from it or from its answers; a model that was made without it shows so many modules"
    " with the probability below.",
    "not_owned": "Do not accuse. The mark may also have been removed, or be hidden by masks.",
    "inconclusive": "That is not enough to accuse anybody.",
}


def write_segmenter_audit_report(out_html: str | Path, audit: dict[str, Any]) -> None:
    """Writes the report of an audit.

    Names come from outside: all text is escaped, and the page forbids the browser to load anything.

    Args:
        out_html: file to write.
        audit: content of ``audit-segmenter.json``, see :func:`medmark.components.segmentation.audit.audit_segmenters`.
    """
    shown = []
    for suspect in audit["suspects"]:
        tone, headline = HEADLINES[suspect["verdict"]]
        text = suspect["reading"]["text"] if suspect["reading"] else None
        symbol = data_uri(qr_png(text), "image/png") if text else None
        shown.append(
            suspect | {"tone": tone, "headline": headline, "says": SENTENCES[suspect["verdict"]], "symbol": symbol}
        )
    html = (
        environment("medmark.components.segmentation")
        .get_template("audit.html.j2")
        .render(audit=audit, suspects=shown, thresholds=sorted(audit["thresholds"].items()))
    )
    write_private(out_html, html.encode())
