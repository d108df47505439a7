"""Auditing suspects that segment: does their uncertainty show the payload?"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from medmark.components.base.digests import canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.lineage.drawing import check_draw
from medmark.components.segmentation.check import said
from medmark.components.segmentation.evidence import Payload, payload_of, read_query_images, read_segmenter_evidence
from medmark.components.segmentation.reading import Reading, read_payload
from medmark.components.segmentation.verdict import MASKS_ONLY, SegmenterThresholds, payload_proof
from medmark.components.suspects.answer_store import StoredSuspect
from medmark.components.suspects.contract import Contract
from medmark.components.suspects.http import Connection
from medmark.components.suspects.messages import Unavailable
from medmark.components.suspects.segmenters import SegmenterSuspect, open_segmenter, square_map
from medmark.components.verification.audit import STORE, UNCOMMITTED, check_commitment
from medmark.components.verification.verdict import Decision
from statsmodels.stats.multitest import multipletests

AUDIT_SCHEMA_VERSION = 1
AUDIT = "audit-segmenter.json"
MEANINGS = {
    "verdict": "owned: the payload is there; not_owned: no more of it than chance gives; inconclusive: in between, or no answer",
    "matches": "modules of the secret payload that the suspect's uncertainty shows under the trigger, of 256; chance gives 128",
    "p_value": "chance of so many matches for any model that was trained without the payload; exact (binomial)",
    "p_value_holm": "the same, corrected for the number of suspects by Holm's method",
    "text": "what the modules say once corrected, or null; the owner's text, if it is the marked model or one made from it",
    "corrected": "modules that were read wrong and corrected",
    "without_trigger": "the same reading of the same images without the trigger",
    "asked": "images that were sent to the suspect this time; answers that were kept are not asked for again",
    "model": "SHA-256 of the suspect's files, or of the endpoint's address and what it says of its model",
    "contract": "how the suspect was shown images and how its answers were read: an image x in [0, 1] as (x * scale - mean) / std",
}


def audit_segmenters(
    evidence_dir: str | Path,
    suspects: list[str],
    out_dir: str | Path,
    *,
    contract: Contract | None = None,
    connection: Connection | None = None,
    registry: str | None = None,
    commitment: str | Path | None = None,
    public_key: str | Path | None = None,
    timestamp_roots: str | Path | None = None,
    beacon: str | Path | None = None,
    files: dict[str, Path] | None = None,
) -> dict[str, Any]:
    """Asks suspects about the evidence's images, with and without the trigger, and writes ``audit-segmenter.json``.

    Args:
        evidence_dir: complete evidence of a marked segmenter.
        suspects, contract, connection, registry, commitment, public_key, timestamp_roots, beacon, files: see
            :func:`medmark.components.verification.audit.audit`.
        out_dir: gets ``audit-segmenter.json``, and ``answers.sqlite``: another audit into it does not ask again what was answered.

    Returns:
        Its content; ``meanings`` in it says what each number means.

    Raises:
        MedmarkError: one of commitment and key without the other, or what the check or the suspects raise. A suspect that gives no
            answer, or goes beyond its limits, raises nothing: its verdict is ``inconclusive``.
    """
    started = time.monotonic()
    evidence = read_segmenter_evidence(evidence_dir)
    if "thresholds" not in evidence:
        raise MedmarkError(f"incomplete evidence: {evidence_dir}; use what a finished mark-segmenter wrote")
    if not suspects or len(set(suspects)) != len(suspects):
        raise MedmarkError(f"{len(suspects)} suspects, not all different; name each suspect once")
    committed = check_commitment(evidence, evidence_dir, commitment, public_key, timestamp_roots)
    draw = check_draw(evidence_dir, timestamp_roots=timestamp_roots, beacon=beacon)
    thresholds, payload = SegmenterThresholds(**evidence["thresholds"]), payload_of(evidence)
    channels = 3 if evidence["image_mode"] == "RGB" else 1
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in suspects:
        try:
            suspect = open_segmenter(
                name,
                contract or Contract(),
                channels=channels,
                class_names=evidence["class_names"],
                connection=connection,
                registry=registry,
                file=(files or {}).get(name),
            )
            rows.append(_question(suspect, evidence_dir, evidence, payload, out / STORE))
        except Unavailable as error:
            rows.append({"name": name, "error": str(error), "reading": None})
    made = {
        "schema_version": AUDIT_SCHEMA_VERSION,
        "model_digest": evidence["model_digest"],
        "evidence_sha256": file_sha256(Path(evidence_dir) / "evidence.json"),
        "thresholds": evidence["thresholds"],
        "suspects": weigh(rows, thresholds),
        "commitment": committed,
        "draw": asdict(draw),
        "cautions": [
            committed["time_says"] if committed else UNCOMMITTED,
            draw.says,
            MASKS_ONLY,
            "the verdict is about models: it does not say who trained them",
        ],
        "meanings": MEANINGS,
        "code_version": version("medmark"),
        "seconds": round(time.monotonic() - started, 1),
    }
    (out / AUDIT).write_bytes(canonical_json(made))
    return made


def weigh(rows: list[dict[str, Any]], thresholds: SegmenterThresholds) -> list[dict[str, Any]]:
    """Decides about each suspect, corrected for their number by Holm's method.

    Args:
        rows: ``name``, ``reading`` (None without answers), ``error`` and what else is to be reported of each.
        thresholds: of the evidence.
    """
    p_values = [row["reading"].p_value if row["reading"] else 1.0 for row in rows]
    shown = []
    for row, p in zip(rows, multipletests(p_values, method="holm")[1], strict=True):
        reading: Reading | None = row["reading"]
        entry = {**row, "p_value_holm": float(p), "reading": None, "verdict": "inconclusive"}
        if reading is None:
            entry["reasons"] = [row["error"]]
        else:
            decision = Decision(
                (payload_proof(replace(reading, p_value=float(p)), thresholds.alpha, thresholds.chance),)
            )
            entry |= {"verdict": decision.verdict, "reasons": [proof.reason for proof in decision.proofs]}
            entry["reading"] = said(reading)
        shown.append(entry)
    return shown


def _question(
    suspect: SegmenterSuspect, evidence_dir: str | Path, evidence: dict[str, Any], payload: Payload, store: Path
) -> dict[str, Any]:
    """Asks one suspect what it has not answered before, and closes it."""
    try:
        images = read_query_images(evidence_dir, mode=evidence["image_mode"], size=suspect.size)
        with StoredSuspect(suspect, store, square_map) as stored:
            triggered, clean = stored(payload.mark.put(images)), stored(images)
    finally:
        suspect.close()

    def read(maps: np.ndarray) -> Reading:
        return read_payload(maps, payload.mark.modules, payload.mark_key)

    return {
        "name": suspect.name,
        "error": None,
        "reading": read(triggered),
        "without_trigger": said(read(clean)),
        "model": suspect.model,
        "identity": suspect.identity,
        "contract": suspect.contract.to_json(),
        "batch_size": suspect.batch_size,
        "asked": stored.asked,
    }
