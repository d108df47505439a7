"""When a locked release may be handed out, and when its locks do what they are for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medmark.components.verification.verdict import Proof, State

LIMITS = (
    "a lock is no proof of ownership and no encryption: people see past a logo, classifiers that were not there when it was placed"
    " may, and whoever trains on locked images teaches them to"
)


@dataclass(frozen=True)
class LockThresholds:
    """Fixed before a run. Both are what MIAD-MARK, a later version of MedLocker, reports on fundus photographs.

    Attributes:
        white_box: largest accuracy of the classifiers that the locks were made against, on images that they had right.
        black_box: likewise of classifiers that took no part.
    """

    white_box: float = 0.0857
    black_box: float = 0.4583


@dataclass(frozen=True)
class LockDecision:
    """What the check of a locked release comes to.

    Attributes:
        proofs: in the order in which they are shown.
    """

    proofs: tuple[Proof, ...]

    @property
    def verdict(self) -> str:
        """``unsafe`` if a lesion is covered, or an image changed elsewhere or does not come back; ``weak`` if classifiers still see
        more than they may, or it is not known; else ``locked``."""
        if any(proof.state == "fails" for proof in self.proofs[: len(SAFETY)]):
            return "unsafe"
        return "locked" if all(proof.state == "holds" for proof in self.proofs) else "weak"

    @property
    def reasons(self) -> list[str]:
        """What speaks against the locks."""
        return [proof.reason for proof in self.proofs if proof.state != "holds"]


SAFETY = ("lesions covered", "changed elsewhere", "unlocked", "tampered inputs")


def lock_proofs(measured: dict[str, Any], thresholds: LockThresholds) -> LockDecision:
    """Lists what must hold of a locked release.

    Args:
        measured: ``lesions``, ``elsewhere``, ``unlocked`` and ``accuracy`` of ``verdict.json``.
        thresholds: fixed beforehand.
    """
    lesions, unlocked, accuracy = measured["lesions"], measured["unlocked"], measured["accuracy"]
    return LockDecision(
        (
            _proof(
                "lesions covered",
                lesions["covered_pixels"] == 0,
                f"{lesions['covered_pixels']} pixels",
                "0 pixels",
                "No logo may touch a lesion, wherever a mask or, without one, a guess says that it is.",
            ),
            _proof(
                "changed elsewhere",
                measured["elsewhere"]["changed_pixels"] == 0,
                f"{measured['elsewhere']['changed_pixels']} pixels",
                "0 pixels",
                "Outside of the logo every stored value is what it was, so the SSIM there is 1.",
            ),
            _proof(
                "unlocked",
                unlocked["exact"] == unlocked["images"],
                f"{unlocked['exact']} of {unlocked['images']}",
                "all, in every bit",
                "Images that come back with the key as they were.",
            ),
            _proof(
                "tampered inputs",
                unlocked["accepted"] == 0,
                f"{unlocked['accepted']} of {unlocked['tampered']} accepted",
                "0 accepted",
                "Wrong keys, cut or changed locks, changed images, and locks of other images: unlocking must refuse each.",
            ),
            _accuracy("white-box accuracy", accuracy["white_box"]["locked"], thresholds.white_box,
                      "Share of the test images that classifiers still have right, of those that they had right before: here"
                      " the classifiers that the locks were made against."),
            _accuracy("black-box accuracy", accuracy["black_box"]["locked"], thresholds.black_box,
                      "The same of classifiers that took no part in making the locks; the mean over them."),
        )
    )  # fmt: skip


def _accuracy(name: str, value: float | None, limit: float, meaning: str) -> Proof:
    needed = f"<= {100 * limit:g} %"
    if value is None:
        return Proof(name, "not known", None, needed, "missing", meaning, f"{name}: no classifier was asked")
    return _proof(name, value <= limit, f"{100 * value:.1f} %", needed, meaning)


def _proof(name: str, holds: bool, value: str, needed: str, meaning: str) -> Proof:
    state: State = "holds" if holds else "fails"
    return Proof(name, value, None, needed, state, meaning, f"{name}: {value} ({needed} is needed)")
