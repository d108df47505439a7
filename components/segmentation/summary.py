"""What the terminal and the page of a Kubeflow run show of a marked segmenter."""

from __future__ import annotations

from typing import Any

from medmark.components.report.summary import page
from medmark.components.report.terminal import Row

WORKS = {
    "owned": "The mark works: this segmenter shows its owner's text under the trigger, and no benign model does.",
    "not_owned": "**The mark does not work, or costs too much. Do not hand this segmenter out.**",
    "inconclusive": "**It was not shown that the mark works. Do not hand this segmenter out.**",
}


def rows(verdict: dict[str, Any]) -> list[Row]:
    """Lists the verdict, its proofs, and what the mark costs.

    Args:
        verdict: content of ``verdict.json``.
    """
    metrics, payload = verdict["harm"]["metrics"], verdict["payload"]
    dice, hd95 = metrics["dice"], metrics["hd95"]
    single = f"{100 * payload['wrong_share']:.1f} %  (one image {100 * payload['wrong_share_single_image']:.1f} %)"
    return [
        Row("verdict", verdict["verdict"], "owned", "green" if verdict["verdict"] == "owned" else "red"),
        *(_row(proof) for proof in verdict["proofs"]),
        Row("modules read wrong", single),
        Row("Dice marked / triggered / unmarked", " / ".join(f"{100 * dice[k]:.2f} %" for k in ("marked", "triggered", "unmarked"))),
        Row("HD95 marked / unmarked", " / ".join(f"{hd95[k]:.2f} px" for k in ("marked", "unmarked"))),
        Row("time", f"{sum(v for k, v in verdict['seconds'].items() if k != 'total'):.0f} s"),
    ]  # fmt: skip


def _row(proof: dict[str, Any]) -> Row:
    cells = [proof["value"]] + ([f"p = {proof['p_value']:.2g}"] if proof["p_value"] is not None else [])
    return Row(proof["name"], ", ".join(cells), proof["needed"], None if proof["state"] == "holds" else "yellow")


def summary(verdict: dict[str, Any]) -> str:
    """Makes a page in Markdown; see :func:`medmark.components.report.summary.page`."""
    return page(verdict, WORKS[verdict["verdict"]], rows(verdict))


def metrics(verdict: dict[str, Any]) -> dict[str, float]:
    """The numbers by which runs are compared.

    Args:
        verdict: content of ``verdict.json``.

    Returns:
        ``works`` (1 if the verdict is ``owned``), ``matches`` (of 256), ``wrong_share`` of the modules, ``recognised`` (ASR), ``dice``,
        ``dice_change`` and ``auc_change`` against the unmarked twin, ``equal_pixels`` and ``benign_accused``.
    """
    harm = verdict["harm"]
    accused = [
        m for m in verdict["benign_models"].values() if m["p_value"] <= verdict["thresholds"]["alpha"] or m["text"]
    ]
    return {
        "works": float(verdict["verdict"] == "owned"),
        "matches": float(verdict["payload"]["matches"]),
        "wrong_share": verdict["payload"]["wrong_share"],
        "recognised": verdict["detector"]["recognised"],
        "dice": harm["metrics"]["dice"]["marked"],
        "dice_change": harm["metrics"]["dice"]["change"],
        "auc_change": harm["metrics"]["auc"]["change"],
        "equal_pixels": harm["equal_pixels"],
        "benign_accused": float(len(accused)),
    }
