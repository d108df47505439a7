"""Check a marked release before it goes out: the step that writes ``verdict.json``."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from medmark.components.base.digests import canonical_json
from medmark.components.base.errors import MedmarkError
from medmark.components.base.threads import use_threads
from medmark.components.dataset.release import Release
from medmark.components.evidence.evidence import read_evidence
from medmark.components.evidence.key_answers import write_waves
from medmark.components.evidence.queries import read_queries
from medmark.components.generator.key import draw_key
from medmark.components.surrogate.models import load_models
from medmark.components.surrogate.training import TrainConfig, predict_probabilities, trained_alike
from medmark.components.verification.exact_tests import ask_about_images
from medmark.components.verification.scenarios import verify
from medmark.components.verification.verdict import Thresholds


def check_release(
    release_dir: str | Path,
    evidence_dir: str | Path,
    benign_dir: str | Path,
    marked_dir: str | Path,
    out_dir: str | Path,
    *,
    thresholds: Thresholds,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Runs the scenarios and writes ``verdict.json``, ``scores.parquet`` and ``waves.parquet``.

    Args:
        release_dir: the marked release.
        evidence_dir: its private evidence.
        benign_dir: models trained on the clean release.
        marked_dir: models trained on the marked one.
        out_dir: gets the files.
        thresholds: fixed beforehand.
        seconds: of the steps before this one, by name.

    Returns:
        The content of ``verdict.json``.

    Raises:
        MedmarkError: evidence of another release, or a marked model without a benign model of the same configuration.
    """
    use_threads()
    release, evidence = Release(release_dir), read_evidence(evidence_dir)
    if evidence["release_digest"] != release.digest:
        raise MedmarkError(f"evidence of another release: {evidence_dir}; use the evidence made with {release.path}")
    target = release.class_index(evidence["target_class"])
    benign_models, marked_models = load_models(benign_dir), load_models(marked_dir)
    sizes = {model.size for _, model in benign_models + marked_models}
    if len(sizes) != 1:
        raise MedmarkError(
            f"models of different sizes {sorted(sizes)} in {benign_dir} and {marked_dir}; train all at one"
        )
    size = sizes.pop()
    queries = read_queries(evidence_dir, size=size, target=target)
    verdict, scores, waves = verify(
        {entry["name"]: partial(predict_probabilities, model) for entry, model in marked_models},
        {entry["name"]: partial(predict_probabilities, model) for entry, model in benign_models},
        queries,
        thresholds,
        draw_key(evidence["seed"]),
        partial(ask_about_images, evidence_dir=evidence_dir, evidence=evidence, size=size),
    )
    benign = {entry["name"]: entry for entry, _ in benign_models}
    configs = [TrainConfig(**entry["config"]) for entry in benign.values()]
    pairs = [(entry, benign[trained_alike(TrainConfig(**entry["config"]), configs)]) for entry, _ in marked_models]
    verdict.update(
        {
            "accuracy": {
                "marked": float(np.mean([marked_model["test_accuracy"] for marked_model, _ in pairs])),
                "benign": float(np.mean([alike["test_accuracy"] for _, alike in pairs])),
                "victims": {marked_model["name"]: marked_model["test_accuracy"] for marked_model, _ in pairs},
                "trained_alike": {marked_model["name"]: alike["test_accuracy"] for marked_model, alike in pairs},
            },
            "quality": evidence["quality"],
            "left_unmarked": evidence["left_unmarked"],
            "held_back_patients": evidence.get("held_back_patients", 0),
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
    write_waves(out, waves)
    (out / "verdict.json").write_bytes(canonical_json(verdict))
    return verdict
