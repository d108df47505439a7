"""The private evidence of a marked segmenter.

A folder like that of a release: ``evidence.json`` says which model it is about, holds text, trigger and key, and names every other file with
its SHA-256: ``queries.parquet``, the images that suspects are asked about, ``benign.json``, what the benign models answered, and
``steps.json``, the events of the run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from medmark.components.base.digests import HEX, canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.base.private_files import write_private
from medmark.components.base.text import reason_of
from medmark.components.dataset.arrays import colour_tensor, resize
from medmark.components.dataset.release import Record, Release
from medmark.components.evidence.draw import DRAW
from medmark.components.evidence.evidence import STEPS, copy_evidence, read_evidence, write_evidence
from medmark.components.evidence.secrets import Secrets
from medmark.components.lineage.events import public_record, read_steps, with_secrets, write_steps
from medmark.components.segmentation.payload import checked_text, payload_modules
from medmark.components.segmentation.training import Mark
from medmark.components.segmentation.trigger import TRIGGERS

KIND = "segmenter"
QUERIES, BENIGN = "queries.parquet", "benign.json"
QUERIES_SCHEMA = pa.schema(
    [("image_id", pa.string()), ("image", pa.binary()), ("bits", pa.int32()), ("dicom", pa.string())]
)


@dataclass(frozen=True)
class Payload:
    """What a mark carries, and how it is called up.

    Attributes:
        text: that the mark carries.
        trigger: name in :data:`medmark.components.segmentation.trigger.TRIGGERS`.
        mark_key: 32 secret bytes.
    """

    text: str
    trigger: str
    mark_key: bytes = field(repr=False)

    @property
    def mark(self) -> Mark:
        """What a segmenter is to answer, and when."""
        return Mark(self.trigger, payload_modules(self.text, self.mark_key), self.mark_key)


def read_segmenter_evidence(folder: str | Path) -> dict[str, Any]:
    """Content of ``evidence.json``, after checking every file that it names.

    Raises:
        MedmarkError: something is missing or changed, or the evidence is a release's.
    """
    evidence = read_evidence(folder)
    if evidence.get("kind") != KIND:
        raise MedmarkError(f"evidence of a release: {folder}; give that of a marked segmenter, or use 'medmark audit'")
    return evidence


def payload_of(evidence: dict[str, Any]) -> Payload:
    """Returns the payload that ``evidence.json`` holds.

    Args:
        evidence: content of ``evidence.json``.

    Raises:
        MedmarkError: it is missing or damaged.
    """
    try:
        if evidence["trigger"] not in TRIGGERS or not HEX.fullmatch(evidence["mark_key"]):
            raise ValueError("no trigger or no key")
        checked_text(evidence["text"])
        return Payload(evidence["text"], evidence["trigger"], bytes.fromhex(evidence["mark_key"]))
    except (ValueError, KeyError, TypeError, AttributeError, MedmarkError) as error:
        # the error's own words could name the text
        raise MedmarkError(f"no payload in the evidence ({type(error).__name__}); restore it from a backup") from None


def seal_segmenter_evidence(
    model_dir: str | Path,
    evidence_dir: str | Path,
    out_dir: str | Path,
    record_file: str | Path,
    *,
    verdict: dict[str, Any],
    events: list[dict],
    drawn: Secrets,
) -> dict[str, Any]:
    """Copies the evidence, adds what benign models answered, the thresholds, the run's events and how the key was drawn, and writes the
    public record of how the model was made.

    Args:
        model_dir: the marked model.
        evidence_dir: as the marking step wrote it.
        out_dir: gets the complete evidence; readable by its owner only.
        record_file: gets the record as JSON.
        verdict: content of ``verdict.json``.
        events: of all steps, see :func:`medmark.components.lineage.events.step_event`.
        drawn: the run's secrets, which events may refer to.

    Returns:
        The content of the new ``evidence.json``.
    """
    evidence, out = read_segmenter_evidence(evidence_dir), Path(out_dir)
    copy_evidence(Path(evidence_dir), out, evidence)
    write_private(out / BENIGN, canonical_json(verdict["benign_models"]))
    write_steps(out, [with_secrets(event, drawn) for event in events])
    added = [BENIGN, STEPS]
    if drawn.draw is not None:
        write_private(out / DRAW, drawn.draw.encode())
        added.append(DRAW)
    evidence["files"] |= {name: file_sha256(out / name) for name in added}
    evidence["thresholds"] = verdict["thresholds"]
    record = public_record(model_dir, read_steps(out), verdict=verdict["verdict"])
    Path(record_file).write_bytes(canonical_json(record))
    return write_evidence(out, evidence)


def write_query_images(folder: str | Path, release: Release, count: int) -> int:
    """Writes test images, one of a patient, that suspects are asked about.

    Args:
        folder: of the evidence.
        release: for segmentation; the marked model did not see its test split.
        count: at most.

    Returns:
        How many there are.
    """
    rows: list[dict[str, Any]] = []
    patients: set[str] = set()
    for record in release.records("test", columns=["patient_id", *QUERIES_SCHEMA.names]):
        if record.patient_id not in patients and len(rows) < count:
            patients.add(record.patient_id)
            rows.append({name: getattr(record, name) for name in QUERIES_SCHEMA.names})
    pq.write_table(pa.Table.from_pylist(rows, schema=QUERIES_SCHEMA), Path(folder) / QUERIES, compression="zstd")
    return len(rows)


def read_query_images(folder: str | Path, *, mode: str, size: int) -> torch.Tensor:
    """Reads the images that suspects are asked about, as shown.

    Args:
        folder: of the evidence.
        mode: ``L`` or ``RGB``, as ``evidence.json`` says.
        size: side in pixels.

    Returns:
        (N, C, size, size) float32 in [0, 1].

    Raises:
        MedmarkError: the file is missing or damaged.
    """
    path = Path(folder) / QUERIES
    try:
        rows = pq.read_table(path, schema=QUERIES_SCHEMA).to_pylist()
        return torch.cat([resize(colour_tensor(_record(row), mode), size) for row in rows])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, pa.ArrowException) as error:
        raise MedmarkError(f"unreadable queries: {path} ({reason_of(error)}); restore it from a backup") from error


def _record(row: dict[str, Any]) -> Record:
    return Record(row["image_id"], row["image"], "png", 0, "", "test", 0, 0, row["bits"], "", row["dicom"])
