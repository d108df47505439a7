"""Checking a marked release before it goes out: the step that writes ``verdict.json``."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from medmark.components.base.digests import canonical_json
from medmark.components.base.errors import MedmarkError
from medmark.components.base.threads import use_threads
from medmark.components.dataset.release import Release
from medmark.components.evidence.evidence import read_evidence
from medmark.components.evidence.queries import read_queries
from medmark.components.surrogate.panel import load_models
from medmark.components.surrogate.training import predict_probabilities
from medmark.components.verification.scenarios import verify
from medmark.components.verification.verdict import Thresholds


def check_release(
    release_dir: str | Path,
    evidence_dir: str | Path,
    innocents_dir: str | Path,
    victims_dir: str | Path,
    out_dir: str | Path,
    *,
    thresholds: Thresholds,
    seconds: dict[str, float],
) -> dict:
    """Runs the scenarios and writes ``verdict.json`` and ``scores.parquet``.

    Args:
        release_dir: the marked release.
        evidence_dir: its private evidence.
        innocents_dir: models trained on the clean release.
        victims_dir: models trained on the marked one.
        out_dir: gets both files.
        thresholds: fixed beforehand.
        seconds: of the steps before this one, by name.

    Returns:
        The content of ``verdict.json``.

    Raises:
        MedmarkError: evidence of another release, or a victim without an innocent model of the same configuration.
    """
    use_threads()
    release, evidence = Release(release_dir), read_evidence(evidence_dir)
    if evidence["release_digest"] != release.digest:
        raise MedmarkError(f"evidence of another release: {evidence_dir}; use the evidence made with {release.path}")
    target = release.class_index(evidence["target_class"])
    innocents, victims = load_models(innocents_dir), load_models(victims_dir)
    sizes = {model.size for _, model in innocents + victims}
    if len(sizes) != 1:
        raise MedmarkError(
            f"models of different sizes {sorted(sizes)} in {innocents_dir} and {victims_dir}; train all at one"
        )
    queries = read_queries(evidence_dir, size=sizes.pop(), target=target)
    verdict, scores = verify(
        {entry["name"]: partial(predict_probabilities, model) for entry, model in victims},
        {entry["name"]: partial(predict_probabilities, model) for entry, model in innocents},
        queries,
        thresholds,
    )
    pairs = [(entry, _trained_alike(entry, innocents)) for entry, _ in victims]
    verdict.update(
        {
            "accuracy": {
                "marked": float(np.mean([victim["test_accuracy"] for victim, _ in pairs])),
                "benign": float(np.mean([honest["test_accuracy"] for _, honest in pairs])),
                "victims": {victim["name"]: victim["test_accuracy"] for victim, _ in pairs},
                "trained_alike": {victim["name"]: honest["test_accuracy"] for victim, honest in pairs},
            },
            "quality": evidence["quality"],
            "left_unmarked": evidence["left_unmarked"],
            "marked_fraction": (evidence["marked_images"] + evidence["decoy_images"]) / evidence["images"],
            "decoy_fraction": evidence["decoy_images"] / evidence["images"],
            "release_digest": release.digest,
            "parent_digest": evidence["parent_digest"],
            "dataset": {
                "name": release.name,
                "version": release.version,
                "images": len(release),
                "counts": release.counts,
                "target_class": evidence["target_class"],
            },
            "code_version": version("medmark"),
            "seconds": seconds,
        }
    )
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    scores.to_parquet(out / "scores.parquet")
    (out / "verdict.json").write_bytes(canonical_json(verdict))
    return verdict


def _trained_alike(victim: dict, innocents: list) -> dict:
    """The innocent model that differs from a victim in its data alone."""
    recipe = {**victim["config"], "name": None}
    for entry, _ in innocents:
        if {**entry["config"], "name": None} == recipe:
            return entry
    raise MedmarkError(
        f"no innocent model is trained as {victim['name']} is; add its configuration to the innocent models"
    )
