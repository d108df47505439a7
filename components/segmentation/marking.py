"""Making a marked segmenter and its private evidence."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medmark.components.base.digests import file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.arrays import load_masks
from medmark.components.dataset.release import Release, refuse_task
from medmark.components.evidence.evidence import EVIDENCE_SCHEMA_VERSION, write_evidence
from medmark.components.evidence.marked_model import ONNX, WEIGHTS, MarkedModel, write_marked_model
from medmark.components.segmentation.evidence import (
    KIND,
    QUERIES,
    Payload,
    write_query_images,
)
from medmark.components.segmentation.networks import Probabilities, save_segmenter
from medmark.components.segmentation.training import SegmenterConfig, train_segmenter
from medmark.components.tracking.registry import onnx_graph


def mark_segmenter(
    release_dir: str | Path,
    model_dir: str | Path,
    evidence_dir: str | Path,
    *,
    config: SegmenterConfig,
    payload: Payload,
    name: str,
    version: str,
    queries: int,
    weights_sha256: str = "",
) -> MarkedModel:
    """Trains a marked segmenter from scratch, or goes on with the weights that ``config`` names, and writes its evidence.

    Args:
        release_dir: release for segmentation.
        model_dir: gets ``weights.safetensors``, ``model.onnx``, which answers with probabilities, and ``model.json``; nothing in it
            is secret.
        evidence_dir: gets ``evidence.json`` and ``queries.parquet``; private.
        config: how to train.
        payload: what the mark carries, and how it is called up.
        name, version: of the model; public.
        queries: images that suspects are asked about, at most.
        weights_sha256: that the file which ``config`` names must have; not checked when empty.

    Raises:
        MedmarkError: the release is for classification or has too few test images, the weights are others, or what training raises.
    """
    release, model, evidence = Release(release_dir), Path(model_dir), Path(evidence_dir)
    refuse_task(release, "segmentation")
    if config.weights and weights_sha256 and file_sha256(config.weights) != weights_sha256:
        raise MedmarkError(f"weights changed: {config.weights}; give the ones that the run was started with")
    for folder in (model, evidence):
        folder.mkdir(parents=True, exist_ok=True)
    os.chmod(evidence, 0o700)
    asked = write_query_images(evidence, release, queries)
    if asked < 2:  # before hours of training
        raise MedmarkError(
            f"{asked} patients to ask suspects about: {release.path} has too few in split test; supply more"
        )
    train = load_masks(release, split="train", size=config.size)
    trained = train_segmenter(train, config, mark=payload.mark, checkpoint=evidence / "training.checkpoint")
    save_segmenter(trained.model, model / WEIGHTS)
    shape = (trained.model.channels, config.size, config.size)
    graph = onnx_graph(Probabilities(trained.model), shape, "image", "probabilities")
    (model / ONNX).write_bytes(graph.SerializeToString(deterministic=True))
    stated: dict[str, Any] = {
        "name": name,
        "version": version,
        "task": "segmentation",
        "class_names": release.class_names,
        "image_mode": release.image_mode,
        "architecture": config.architecture,
        "channels": trained.model.channels,
        "size": config.size,
        "release_digest": release.digest,
        "files": {file: file_sha256(model / file) for file in (WEIGHTS, ONNX)},
    }
    marked = write_marked_model(model, stated)
    write_evidence(
        evidence,
        {
            "schema_version": EVIDENCE_SCHEMA_VERSION,
            "kind": KIND,
            "model_digest": marked.digest,
            "release_digest": release.digest,
            "class_names": release.class_names,
            "image_mode": release.image_mode,
            "queries": asked,
            "text": payload.text,
            "trigger": payload.trigger,
            "mark_key": payload.mark_key.hex(),
            "config": asdict(config) | {"weights": config.weights and Path(config.weights).name},
            "history": trained.history,
            "seconds": round(trained.seconds, 2),
            "files": {QUERIES: file_sha256(evidence / QUERIES)},
        },
    )
    return marked
