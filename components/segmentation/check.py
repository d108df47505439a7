"""Checking a marked segmenter before it goes out: the step that writes ``verdict.json``."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from medmark.components.base.digests import canonical_json
from medmark.components.base.errors import MedmarkError
from medmark.components.base.threads import use_threads
from medmark.components.dataset.arrays import MaskArrays, load_masks
from medmark.components.dataset.release import Release
from medmark.components.evidence.marked_model import read_marked_model
from medmark.components.segmentation.detector import fit_detector
from medmark.components.segmentation.evidence import Payload, payload_of, read_segmenter_evidence
from medmark.components.segmentation.models import load_segmenters
from medmark.components.segmentation.networks import Segmenter, load_segmenter, predict_maps
from medmark.components.segmentation.reading import Reading, read_payload
from medmark.components.segmentation.verdict import MASKS_ONLY, SegmenterThresholds, check_proofs
from medmark.components.verification.verdict import Decision


def check_segmenter(
    release_dir: str | Path,
    model_dir: str | Path,
    evidence_dir: str | Path,
    unmarked_dir: str | Path,
    out_dir: str | Path,
    *,
    thresholds: SegmenterThresholds,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Reads the mark from the model's own answers, compares it with segmenters without it, and writes ``verdict.json``.

    Args:
        release_dir: release that all of them were trained on; its test split is asked about, its validation split fits the detector.
        model_dir: the marked segmenter.
        evidence_dir: its private evidence.
        unmarked_dir: segmenters without a mark; the first is the unmarked twin, trained as the marked one in all else.
        out_dir: gets ``verdict.json``.
        thresholds: fixed beforehand.
        seconds: of the steps before this one, by name.

    Returns:
        The content of ``verdict.json``.

    Raises:
        MedmarkError: things that do not belong together, or too few images.
    """
    from medmark.components.segmentation.harm import compare_segmenters  # takes seconds, and an audit does not need it

    use_threads()
    release, marked, evidence = (
        Release(release_dir),
        read_marked_model(model_dir),
        read_segmenter_evidence(evidence_dir),
    )
    if evidence["model_digest"] != marked.digest or evidence["release_digest"] != release.digest:
        raise MedmarkError(f"evidence of another model: {evidence_dir}; use the evidence made with {model_dir}")
    payload, model, unmarked = (
        payload_of(evidence),
        load_segmenter(marked.weights),
        load_segmenters(unmarked_dir),
    )
    if not unmarked:
        raise MedmarkError(f"no segmenter without a mark in {unmarked_dir}; train at least the unmarked twin")
    val, test = (load_masks(release, split=split, size=model.size) for split in ("val", "test"))
    clean, triggered = answers(model, payload, test)
    reading = _read(triggered, payload)
    shown = payload.mark.put(test.images)
    benign_maps = {entry["name"]: predict_maps(other, shown) for entry, other in unmarked}
    benign = {name: _read(maps, payload) for name, maps in benign_maps.items()}
    twin = unmarked[0]
    harm = compare_segmenters(clean, triggered, predict_maps(twin.model, test.images), test.masks)
    detector = fit_detector(*answers(model, payload, val))
    recognised, mistaken = (float(detector.flags(maps).mean()) for maps in (triggered, clean))
    benign_flagged = {name: float(detector.flags(maps).mean()) for name, maps in benign_maps.items()}
    proofs = check_proofs(reading, payload.text, benign, harm, recognised, thresholds)
    decision = Decision(proofs)
    single = [_read(triggered[i : i + 1], payload).matches for i in range(len(test))]
    verdict: dict[str, Any] = {
        "verdict": decision.verdict,
        "reasons": [*decision.failed, *decision.missing] or decision.passed,
        "proofs": [asdict(proof) for proof in proofs],
        "payload": {
            **said(reading),
            "wrong_share": 1 - reading.matches / 256,
            "wrong_share_single_image": 1 - float(np.mean(single)) / 256,
            "without_trigger": said(_read(clean, payload)),
        },
        "benign_models": {name: said(r) | {"recognised": benign_flagged[name]} for name, r in benign.items()},
        "detector": {"recognised": recognised, "mistaken": mistaken},
        "harm": harm | {"unmarked_twin": twin.entry["name"]},
        "thresholds": asdict(thresholds),
        "cannot_show": MASKS_ONLY,
        "model_digest": marked.digest,
        "release_digest": release.digest,
        "dataset": {
            "name": release.name,
            "version": release.version,
            "images": len(release),
            "counts": release.counts,
            "class_names": release.class_names,
            "image_mode": release.image_mode,
        },
        "model": {k: marked.stated[k] for k in ("name", "version", "architecture", "channels", "size")},
        "code_version": version("medmark"),
        "seconds": seconds,
    }
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    (out / "verdict.json").write_bytes(canonical_json(verdict))
    return verdict


def answers(model: Segmenter, payload: Payload, images: MaskArrays) -> tuple[torch.Tensor, torch.Tensor]:
    """Asks a segmenter about images without and with the trigger: two arrays of (N, S, S) probabilities."""
    return predict_maps(model, images.images), predict_maps(model, payload.mark.put(images.images))


def said(reading: Reading) -> dict[str, Any]:
    """What a reading found, as JSON values: without the modules, which are secret."""
    return {
        "matches": reading.matches,
        "p_value": reading.p_value,
        "text": reading.decoded.text if reading.decoded else None,
        "corrected": reading.decoded.corrected if reading.decoded else None,
        "images": reading.images,
    }


def _read(maps: torch.Tensor, payload: Payload) -> Reading:
    return read_payload(maps.numpy(), payload.mark.modules, payload.mark_key)
