"""What a reading proves, and when a mark may be relied on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medmark.components.segmentation.reading import Reading
from medmark.components.verification.verdict import Proof, State

MASKS_ONLY = (
    "the mark lies in the probabilities: it cannot be read from a model that hands out nothing but masks, and a model in which it was"
    " not found may still be yours"
)


@dataclass(frozen=True)
class SegmenterThresholds:
    """Fixed before a run; all ours.

    Attributes:
        alpha: level of the test of matches: an accusation by chance once in a million models.
        chance: p-value above which matches count as chance.
        change: largest change of mean Dice and AUC against the unmarked twin.
        equal_pixels: smallest share of pixels at which the masks with and without the trigger are equal.
        recognised: smallest share of triggered images that the detector recognises (ASR).
    """

    alpha: float = 1e-6
    chance: float = 0.01
    change: float = 0.01
    equal_pixels: float = 0.995
    recognised: float = 0.95


def payload_proof(reading: Reading, alpha: float, chance: float) -> Proof:
    """The proof of ownership: more modules match than chance allows.

    Args:
        reading: of the model.
        alpha: level.
        chance: p-value above which the proof fails; between the two it is missing.
    """
    p = reading.p_value
    state: State = "holds" if p <= alpha else "fails" if p > chance else "missing"
    return Proof(
        name="payload",
        value=f"{reading.matches} of 256 modules",
        p_value=p,
        needed=f"p <= {alpha:g}",
        state=state,
        meaning="How many modules of the secret payload the model's uncertainty shows under the trigger. A model that was trained"
        " without it shows each by a coin's toss.",
        reason=f"payload: {reading.matches} of 256 modules match (p = {p:.3g}; {alpha:g} or less is needed)",
    )


def check_proofs(
    reading: Reading,
    text: str,
    benign: dict[str, Reading],
    harm: dict[str, Any],
    recognised: float,
    thresholds: SegmenterThresholds,
) -> tuple[Proof, ...]:
    """The proofs that a mark works and does no harm.

    Args:
        reading: of the marked segmenter.
        text: that it is to carry.
        benign: readings of segmenters without the mark, by name.
        harm: of :func:`medmark.components.segmentation.harm.compare_segmenters`.
        recognised: share of triggered images that the detector recognises.
        thresholds: fixed beforehand.
    """
    accused = sorted(name for name, r in benign.items() if r.p_value <= thresholds.alpha or r.decoded is not None)
    least = min((r.p_value for r in benign.values()), default=1.0)
    right = reading.decoded is not None and reading.decoded.text == text
    dice, auc = (harm["metrics"][name]["change"] for name in ("dice", "auc"))
    cost = max(abs(change) for change in (dice, auc) if change is not None)
    return (
        payload_proof(reading, thresholds.alpha, thresholds.alpha),
        _proof(
            "text",
            right,
            f"{reading.decoded.corrected} modules corrected" if right and reading.decoded else "not read",
            "exact",
            "Whether the owner's text is read from the model without an error.",
        ),
        _proof(
            "benign models",
            not accused,
            f"{len(accused)} of {len(benign)} accused",
            "0 accused",
            f"Segmenters that were trained without the mark must not show it; the smallest of their p-values is {least:.3g}.",
        ),
        _proof(
            "recognised triggers (ASR)",
            recognised >= thresholds.recognised,
            f"{100 * recognised:.1f} %",
            f">= {100 * thresholds.recognised:g} %",
            "Share of triggered images that StealthMark's detector recognises by their median uncertainty.",
        ),
        _proof(
            "accuracy",
            cost <= thresholds.change,
            f"Dice {100 * (dice or 0):+.2f}, AUC {100 * (auc or 0):+.2f} points",
            f"within {100 * thresholds.change:g} point",
            "Change of mean Dice and AUC on the test images against the unmarked twin.",
        ),
        _proof(
            "same masks",
            harm["equal_pixels"] >= thresholds.equal_pixels,
            f"{100 * harm['equal_pixels']:.2f} %",
            f">= {100 * thresholds.equal_pixels:g} %",
            "Share of pixels at which the thresholded masks with and without the trigger are equal.",
        ),
    )


def _proof(name: str, holds: bool, value: str, needed: str, meaning: str) -> Proof:
    return Proof(
        name=name,
        value=value,
        p_value=None,
        needed=needed,
        state="holds" if holds else "fails",
        meaning=meaning,
        reason=f"{name}: {value} ({needed} is needed)",
    )
