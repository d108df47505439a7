"""Completing the evidence before a release goes out: what benign models answered, and the thresholds.

An audit years later must not depend on anything that could be chosen then. So the answers of the benign models to every
query, and the thresholds of the verdict, become part of the evidence, and of its digests, while there is no suspect yet.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, fields
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from medmark.components.base.digests import canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.evidence.evidence import STEPS, read_evidence
from medmark.components.evidence.secrets import Secrets
from medmark.components.lineage.events import public_record, read_steps, with_secrets, write_steps
from medmark.components.verification.audit import Answers
from medmark.components.verification.verdict import Thresholds

BENIGN = pa.schema(
    [
        ("model", pa.string()),
        ("image_id", pa.string()),
        ("p_clean", pa.float64()),
        ("p_marked", pa.float64()),
        ("p_control", pa.float64()),
        ("is_clean", pa.bool_()),
        ("is_marked", pa.bool_()),
    ]
)


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
        check_dir: of the last step, with ``verdict.json`` and, after a first marking, ``scores.parquet`` with the answers of the
            benign models; only read.
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
    scores = pd.read_parquet(check / "scores.parquet") if (check / "scores.parquet").exists() else None
    known = [with_secrets(event, drawn) for event in events] if drawn else events
    evidence = seal_evidence(evidence_dir, out_dir, scores, Thresholds(**verdict["thresholds"]), known)
    record = public_record(release_dir, read_steps(out_dir), verdict=verdict["verdict"])
    Path(record_file).write_bytes(canonical_json(record))
    return evidence


def seal_evidence(
    evidence_dir: str | Path,
    out_dir: str | Path,
    scores: pd.DataFrame | None,
    thresholds: Thresholds,
    events: list[dict] | None = None,
) -> dict:
    """Copies the evidence and adds ``innocents.parquet``, the thresholds and ``steps.json``.

    Args:
        evidence_dir: as the poisoning step wrote it.
        out_dir: gets the complete evidence; readable by its owner only.
        scores: see :func:`medmark.components.verification.scenarios.verify`; only benign models' answers are kept. None: the
            evidence has them already.
        thresholds: of every later audit.
        events: of the pipeline's steps; no ``steps.json`` when None.

    Returns:
        The content of the new ``evidence.json``.
    """
    evidence, out = read_evidence(evidence_dir), Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    os.chmod(out, 0o700)
    shutil.copytree(evidence_dir, out, dirs_exist_ok=True)
    added = []
    if scores is not None:
        table = pa.Table.from_pandas(scores[scores.role == "innocent"], schema=BENIGN, preserve_index=False)
        pq.write_table(table, out / "innocents.parquet", compression="zstd")
        added.append("innocents.parquet")
    if events is not None:
        write_steps(out, events)
        added.append(STEPS)
    evidence["files"] |= {name: file_sha256(out / name) for name in added}
    evidence["thresholds"] = asdict(thresholds)
    (out / "evidence.json").write_bytes(canonical_json(evidence))
    return evidence


def read_benign(evidence_dir: str | Path, image_ids: list[str]) -> dict[str, Answers]:
    """Answers of the benign models to the query images, by model.

    Args:
        evidence_dir: complete evidence.
        image_ids: of the queries, in their order.

    Raises:
        MedmarkError: the evidence is not complete, or damaged.
    """
    path = Path(evidence_dir) / "innocents.parquet"
    if "innocents.parquet" not in read_evidence(evidence_dir)["files"]:
        raise MedmarkError(
            f"incomplete evidence: {evidence_dir} has no innocents.parquet; use what a finished mark-release wrote"
        )
    try:
        rows = pq.read_table(path, schema=BENIGN).to_pandas()
        models = {name: part.set_index("image_id").loc[image_ids] for name, part in rows.groupby("model")}
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:160]
        raise MedmarkError(f"damaged evidence: {path} ({reason}); restore it from a backup") from error
    columns = [field.name for field in fields(Answers)]
    return {name: Answers(**{column: part[column].to_numpy() for column in columns}) for name, part in models.items()}
