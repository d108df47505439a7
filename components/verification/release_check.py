"""Checking a marked release before it goes out: the step that writes ``verdict.json``."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from medmark.components.dataset.release import Release, canonical_json
from medmark.components.errors import MedmarkError
from medmark.components.platform.resources import use_threads
from medmark.components.poisoning.poison import read_evidence
from medmark.components.poisoning.queries import read_queries
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
    seeds: dict[str, int],
    seconds: dict[str, float],
) -> dict:
    """Runs the scenarios and writes ``verdict.json`` and ``scores.parquet``.

    Args:
        release_dir: the marked release.
        evidence_dir: its private evidence.
        innocents_dir: models trained on the clean release.
        victims_dir: models trained on the marked one.
        out_dir: where to.
        thresholds: fixed beforehand.
        seeds: of the run and its parts.
        seconds: of the steps before this one, by name.

    Returns:
        The content of ``verdict.json``.

    Raises:
        MedmarkError: evidence of another release, or victims that were not trained on this one.
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
    by_architecture: dict[str, list[float]] = {}
    for entry, _ in innocents:
        by_architecture.setdefault(entry["architecture"], []).append(entry["test_accuracy"])
    # like with like: victims against innocent models of the same architecture, where there are any
    pairs = [
        (entry["test_accuracy"], float(np.mean(by_architecture[entry["architecture"]])))
        for entry, _ in victims
        if entry["architecture"] in by_architecture
    ] or [(entry["test_accuracy"], float(np.mean(sum(by_architecture.values(), [])))) for entry, _ in victims]
    verdict.update(
        {
            "accuracy": {
                "marked": float(np.mean([marked for marked, _ in pairs])),
                "benign": float(np.mean([benign for _, benign in pairs])),
                "victims": {entry["name"]: entry["test_accuracy"] for entry, _ in victims},
            },
            "quality": evidence["quality"],
            "marked_fraction": (evidence["marked_images"] + evidence["decoy_images"]) / evidence["images"],
            "decoy_fraction": evidence["decoy_images"] / evidence["images"],
            "seeds": seeds,
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
