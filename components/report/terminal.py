"""Say what the terminal shows of a verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medmark.components.report.report import at_half_side, found
from medmark.components.verification.verdict import Proof, release_proofs


@dataclass(frozen=True)
class Row:
    """One row of the table after ``medmark run mark-release``.

    Attributes:
        what: name of the number or proof.
        result: as text.
        needed: for the verdict ``owned``; empty where nothing is.
        style: of Rich; None: as usual.
    """

    what: str
    result: str
    needed: str = ""
    style: str | None = None


def verdict_rows(verdict: dict[str, Any]) -> list[Row]:
    """Lists the verdict, its proofs, and what the mark costs.

    Args:
        verdict: content of ``verdict.json``, with the seconds of the whole run.
    """
    weakest, accuracy, quality = verdict["malicious"], verdict["accuracy"], verdict["quality"]
    low, high = weakest["delta_p_ci95"]
    half = at_half_side(verdict["robustness"])
    halved = [Row("  at half resolution", _rates(half["marked"], half["clean"]))] if half else []
    return [
        Row("verdict", verdict["verdict"], "owned", "green" if verdict["verdict"] == "owned" else "red"),
        Row("watermark success rate (WSR)", _rates(weakest["wsr"], weakest["clean_rate"])),
        *halved,
        Row("delta-P", f"{weakest['delta_p']:.3f}  [{low:.3f}, {high:.3f}]"),
        *map(_row, release_proofs(verdict)),
        Row("accuracy with / without the mark", f"{100 * accuracy['marked']:.1f} % / {100 * accuracy['benign']:.1f} %"),
        Row("changed images: SSIM, HaarPSI, PSNR", f"{quality['ssim']:.3f}, {quality['haarpsi']:.3f}, {quality['psnr']:.1f} dB"),
        Row("images changed", f"{100 * verdict['marked_fraction']:.1f} %"),
        *([Row("patients held back", str(verdict["held_back_patients"]))] if verdict.get("held_back_patients") else []),
        Row("time", f"{verdict['seconds']['total']:.0f} s"),
    ]  # fmt: skip


def _row(proof: Proof) -> Row:
    return Row(proof.name, found(proof), proof.needed, None if proof.state == "holds" else "yellow")


def _rates(marked: float, clean: float) -> str:
    return f"{100 * marked:.1f} %  (clean {100 * clean:.1f} %)"
