"""Say on the page of a Kubeflow run what the check of a release came to."""

from __future__ import annotations

import html
import re
from typing import Any

from medmark.components.report.terminal import Row, verdict_rows

WORKS = {
    "owned": "The mark works: models trained on this release are recognised.",
    "not_owned": "**The mark does not work. Do not publish this release.**",
    "inconclusive": "**It was not shown that the mark works. Do not publish this release.**",
}
SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~$:-])")  # the colon: KFP's page makes links of bare addresses


def summary(verdict: dict[str, Any]) -> str:
    """Makes a page in Markdown: the verdict, what follows from it, every proof, and what speaks against the mark.

    It shows no image, no patient and nothing secret. Names from outside are escaped.

    Args:
        verdict: content of ``verdict.json``, with the seconds of the whole run.
    """
    return page(verdict, WORKS[verdict["verdict"]], verdict_rows(verdict))


def page(verdict: dict[str, Any], sentence: str, rows: list[Row]) -> str:
    """Makes the page of any check.

    Args:
        verdict: ``verdict`` and ``reasons`` are shown.
        sentence: what the verdict means, in Markdown.
        rows: of the table.
    """
    cells = [[row.what, row.result, row.needed] for row in rows]
    lines = [
        f"# {_text(verdict['verdict'])}",
        sentence,
        "\n".join(_row(of_row) for of_row in (["what", "result", "needed"], None, *cells)),
        "\n".join(f"- {_text(reason)}" for reason in verdict["reasons"]),
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def metrics(verdict: dict[str, Any]) -> dict[str, float]:
    """The numbers by which runs are compared.

    Args:
        verdict: content of ``verdict.json``.

    Returns:
        ``works`` (1 if the verdict is ``owned``), ``wsr`` and ``delta_p`` of the weakest marked model, ``benign_accused``,
        ``accuracy_marked``, ``accuracy_benign``, ``ssim`` and ``marked_fraction``; shares are from 0 to 1.
    """
    weakest, accuracy = verdict["malicious"], verdict["accuracy"]
    return {
        "works": float(verdict["verdict"] == "owned"),
        "wsr": weakest["wsr"],
        "delta_p": weakest["delta_p"],
        "benign_accused": float(verdict["independent_models"]["accused"]),
        "accuracy_marked": accuracy["marked"],
        "accuracy_benign": accuracy["benign"],
        "ssim": verdict["quality"]["ssim"],
        "marked_fraction": verdict["marked_fraction"],
    }


def _row(cells: list[str] | None) -> str:
    return "| " + " | ".join(_text(cell) for cell in cells) + " |" if cells else "| --- | --- | --- |"


def _text(text: str) -> str:
    """Escapes what Markdown or HTML would take for markup."""
    return SPECIAL.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))
