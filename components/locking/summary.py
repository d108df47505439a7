"""What the terminal and the page of a Kubeflow run show of a locked release."""

from __future__ import annotations

from typing import Any

from medmark.components.report.summary import page
from medmark.components.report.terminal import Row

WORKS = {
    "locked": "The locks work: classifiers fail, no lesion is covered, and every image comes back.",
    "weak": "**The images are locked and come back, but classifiers see more of them than they may.**",
    "unsafe": "**A lesion is covered, or an image does not come back. Do not hand this release out.**",
}
KINDS = ("white_box", "black_box")
COLOURS = {"locked": "green", "weak": "yellow", "unsafe": "red"}


def rows(verdict: dict[str, Any]) -> list[Row]:
    """Lists the verdict, its proofs, the controls, and what the locks cost.

    Args:
        verdict: content of ``verdict.json``.
    """
    accuracy, cover, attack = verdict["accuracy"], verdict["cover"], verdict["strongest_attack"]
    boxed, held_out = verdict["lesions"]["segmenter"]["boxed"], verdict["lesions"]["segmenter"]["held_out"]
    guessed = "segmenter" in verdict["lesions"]["from"] and boxed is not None
    return [
        Row("verdict", verdict["verdict"], "locked", COLOURS[verdict["verdict"]]),
        *(Row(p["name"], p["value"], p["needed"], None if p["state"] == "holds" else "yellow") for p in verdict["proofs"]),
        Row("logo at a random place, white / black box", " / ".join(_share(accuracy[k]["random_place"]) for k in KINDS)),
        Row("after the strongest attack, white / black box", " / ".join(_share(attack["locked"][k]) for k in KINDS)),
        Row("  which is", attack["attack"]),
        Row("covered by the logo", f"{100 * cover['mean']:.1f} %, at most {100 * cover['largest']:.1f} %"),
        Row("lesions from", ", ".join(f"{name}: {count}" for name, count in sorted(verdict["lesions"]["from"].items()))),
        *([Row("  lesions inside the segmenter's boxes", f"{100 * boxed:.0f} % of the pixels, in {held_out} images with masks")] if guessed else []),
        Row("images left out", str(verdict["left_out"])),
        Row("time", f"{sum(v for k, v in verdict['seconds'].items() if k != 'total'):.0f} s"),
    ]  # fmt: skip


def _share(value: float | None) -> str:
    return "not known" if value is None else f"{100 * value:.1f} %"


def summary(verdict: dict[str, Any]) -> str:
    """Makes a page in Markdown; see :func:`medmark.components.report.summary.page`."""
    return page(verdict, WORKS[verdict["verdict"]], rows(verdict))


def metrics(verdict: dict[str, Any]) -> dict[str, float]:
    """The numbers by which runs are compared.

    Args:
        verdict: content of ``verdict.json``.

    Returns:
        ``works`` (1 if the verdict is ``locked``), ``white_box`` and ``black_box`` accuracy on locked images, with ``_random`` on the control
        and with ``_attacked`` after the strongest attack, where they are known; ``covered`` share of an image, ``lesion_pixels`` covered,
        ``not_exact`` images, ``accepted`` tampered inputs and ``left_out`` images.
    """
    accuracies = {
        name + suffix: verdict["accuracy"][name][shown]
        for name in KINDS
        for suffix, shown in (("", "locked"), ("_random", "random_place"))
    }
    accuracies |= {f"{name}_attacked": verdict["strongest_attack"]["locked"][name] for name in KINDS}
    unlocked = verdict["unlocked"]
    return {
        "works": float(verdict["verdict"] == "locked"),
        **{name: value for name, value in accuracies.items() if value is not None},
        "covered": verdict["cover"]["mean"],
        "lesion_pixels": float(verdict["lesions"]["covered_pixels"]),
        "not_exact": float(unlocked["images"] - unlocked["exact"]),
        "accepted": float(unlocked["accepted"]),
        "left_out": float(verdict["left_out"]),
    }
