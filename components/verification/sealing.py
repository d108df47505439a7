"""Completing the evidence before a release goes out: what benign models answered, and the thresholds.

An audit years later must not depend on anything that could be chosen then. So the answers of the benign models to every
query, and the thresholds of the verdict, become part of the evidence, and of its digests, while there is no suspect yet.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from medmark.components.base.digests import canonical_json, file_sha256
from medmark.components.base.private_files import write_private
from medmark.components.evidence.answers import BENIGN, write_benign
from medmark.components.evidence.draw import DRAW
from medmark.components.evidence.evidence import STEPS, read_evidence, write_evidence
from medmark.components.evidence.key_answers import WAVES, KeyAnswers, read_waves, write_waves
from medmark.components.evidence.secrets import Secrets
from medmark.components.lineage.events import public_record, read_steps, with_secrets, write_steps
from medmark.components.verification.verdict import Thresholds


def finish_evidence(
    release_dir: str | Path,
    evidence_dir: str | Path,
    check_dir: str | Path,
    out_dir: str | Path,
    record_file: str | Path,
    *,
    events: list[dict],
    drawn: Secrets | None = None,
) -> dict:
    """Completes the evidence at the end of a pipeline, and writes the public record of how the release was made.

    Args:
        release_dir: the marked release.
        evidence_dir: as the pipeline has it so far.
        check_dir: of the last step, with ``verdict.json`` and, after a first marking, ``scores.parquet`` and ``waves.parquet`` with the
            answers of the benign models; only read.
        out_dir: gets the complete evidence; readable by its owner only.
        record_file: gets the record as JSON; stays empty if nothing changed.
        events: of all steps, see :func:`medmark.components.lineage.events.step_event`.
        drawn: the run's secrets, if events refer to them.

    Returns:
        The content of the new ``evidence.json``.
    """
    check, verdict = Path(check_dir), json.loads((Path(check_dir) / "verdict.json").read_bytes())
    if verdict["verdict"] == "unchanged":
        Path(record_file).write_bytes(b"")
        shutil.copytree(evidence_dir, out_dir, dirs_exist_ok=True)
        return read_evidence(out_dir)
    first = (check / "scores.parquet").exists()
    scores, waves = (pd.read_parquet(check / "scores.parquet"), read_waves(check)) if first else (None, None)
    known = [with_secrets(event, drawn) for event in events] if drawn else events
    evidence = seal_evidence(
        evidence_dir,
        out_dir,
        scores,
        Thresholds(**verdict["thresholds"]),
        known,
        waves=waves,
        draw=drawn.draw if drawn else None,
    )
    record = public_record(release_dir, read_steps(out_dir), verdict=verdict["verdict"])
    Path(record_file).write_bytes(canonical_json(record))
    return evidence


def seal_evidence(
    evidence_dir: str | Path,
    out_dir: str | Path,
    scores: pd.DataFrame | None,
    thresholds: Thresholds,
    events: list[dict] | None = None,
    *,
    waves: dict[str, KeyAnswers] | None = None,
    draw: str | None = None,
) -> dict:
    """Copies the evidence and adds ``innocents.parquet``, ``waves.parquet``, the thresholds, ``steps.json`` and ``draw.json``.

    Args:
        evidence_dir: as the poisoning step wrote it.
        out_dir: gets the complete evidence; readable by its owner only.
        scores: see :func:`medmark.components.verification.scenarios.verify`; only benign models' answers are kept. None: the
            evidence has them already.
        thresholds: of every later audit.
        waves: benign models' answers to waves. None: the evidence has them already, or its marks have no key.
        events: of the pipeline's steps; no ``steps.json`` when None.
        draw: content of ``draw.json``; None: the evidence has it already, or is self-drawn.

    Returns:
        The content of the new ``evidence.json``.
    """
    evidence, out = read_evidence(evidence_dir), Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    os.chmod(out, 0o700)
    shutil.copytree(evidence_dir, out, dirs_exist_ok=True)
    added = []
    if scores is not None:
        write_benign(out, scores[scores.role == "innocent"])
        added.append(BENIGN)
    if waves is not None:
        write_waves(out, waves)
        added.append(WAVES)
    if events is not None:
        write_steps(out, events)
        added.append(STEPS)
    if draw is not None:
        write_private(out / DRAW, draw.encode())
        added.append(DRAW)
    evidence["files"] |= {name: file_sha256(out / name) for name in added}
    evidence["thresholds"] = asdict(thresholds)
    return write_evidence(out, evidence)
