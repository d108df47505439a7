"""Check an updated release: is a model that learns from it still recognised?

One model is trained on a sample of the new release, so the cost does not grow with the release, and is asked the queries of
the evidence. The benign models' answers of the first marking calibrate the verdict: the mark is the same, and those models
have not changed.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from medmark.components.base.digests import canonical_json
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.release import Release
from medmark.components.dataset.sample import sample
from medmark.components.evidence.answers import read_benign
from medmark.components.evidence.evidence import read_evidence
from medmark.components.evidence.keep import SURROGATES, read_keep
from medmark.components.evidence.key_answers import read_benign_waves
from medmark.components.evidence.queries import read_queries
from medmark.components.generator.key import draw_key
from medmark.components.surrogate.models import load_models, train_models
from medmark.components.surrogate.training import TrainConfig, predict_probabilities
from medmark.components.verification.exact_tests import ask_about_images
from medmark.components.verification.interrogation import interrogate
from medmark.components.verification.judgement import judge, summary
from medmark.components.verification.key_test import IMAGES, ask_waves, key_test
from medmark.components.verification.verdict import Thresholds

# ours: the smoke profile proves its mark on 1,680 training images, and an adversary has at least all of a release this small
SAMPLE_IMAGES = 2000


def check_update(
    release_dir: str | Path,
    evidence_dir: str | Path,
    keep_dir: str | Path,
    out_dir: str | Path,
    *,
    change: dict,
    seed: int,
) -> dict:
    """Trains a model on a sample of the release, audits it, and writes ``verdict.json``.

    Args:
        release_dir: the updated release.
        evidence_dir: its evidence.
        keep_dir: what was kept with it; the first surrogate's configuration is the model's.
        out_dir: gets ``verdict.json``; the model is not kept.
        change: what :func:`medmark.components.poisoning.update.update` returned; if it says that nothing changed, no model is
            trained and the verdict is ``unchanged``.
        seed: of sample and model.

    Returns:
        The content of ``verdict.json``: ``verdict`` (``owned``: the mark still works), ``reasons`` against it, ``change``, the
        numbers of the model's audit under ``model``, and digests.

    Raises:
        MedmarkError: folders of different runs.
    """
    release, evidence, out = Release(release_dir), read_evidence(evidence_dir), Path(out_dir)
    if evidence["release_digest"] != release.digest or read_keep(keep_dir)["release_digest"] != release.digest:
        raise MedmarkError(
            f"not of one run: {release_dir}, {evidence_dir} and {keep_dir}; give those that belong together"
        )
    out.mkdir(parents=True, exist_ok=True)
    verdict: dict[str, Any] = {
        "verdict": "unchanged",
        "reasons": [],
        "change": change,
        "release_digest": release.digest,
    }
    verdict |= {"parent_digest": release.parent, "thresholds": evidence["thresholds"], "model": None}
    if change["changed"]:
        verdict |= _audit(release, evidence, evidence_dir, keep_dir, out, seed)
    (out / "verdict.json").write_bytes(canonical_json(verdict))
    return verdict


def _audit(
    release: Release, evidence: dict, evidence_dir: str | Path, keep_dir: str | Path, out: Path, seed: int
) -> dict:
    """Trains and asks the model."""
    started = time.monotonic()
    recipe = json.loads((Path(keep_dir) / SURROGATES / "models.json").read_bytes())["models"][0]["config"]
    config = replace(TrainConfig(**recipe), name="check", seed=seed, subset=1.0, augmentation="strong")
    drawn = sample(release.path, out / "sample", train_images=SAMPLE_IMAGES, seed=seed)
    train_models(drawn.path, out / "models", configs=[config])
    entry, model = load_models(out / "models")[0]
    queries = read_queries(evidence_dir, size=model.size, target=release.class_index(evidence["target_class"]))
    benign_models = read_benign(evidence_dir, queries.image_ids)
    suspect, waves = partial(predict_probabilities, model), read_benign_waves(evidence_dir)
    answers = interrogate(suspect, queries)
    key = None
    if waves:
        given = ask_waves(suspect, queries.clean[:IMAGES], queries.target)
        key = key_test(given, waves, draw_key(evidence["seed"]))
    images = ask_about_images(suspect, evidence_dir, evidence, model.size)
    thresholds = Thresholds(**evidence["thresholds"])
    result = judge("check", answers, list(benign_models.values()), thresholds, key, images)
    trained_on = sum(drawn.counts["train"].values())
    shutil.rmtree(out / "sample")
    shutil.rmtree(out / "models")
    return {
        "verdict": result.decision.verdict,
        "reasons": [*result.decision.failed, *result.decision.missing],
        "model": {
            **summary(result),
            "architecture": entry["architecture"],
            "trained_on": trained_on,
            "test_accuracy": entry["test_accuracy"],
            "innocent_models": len(benign_models),
        },
        "seconds": {"check": round(time.monotonic() - started, 1)},
    }
