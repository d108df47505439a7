"""The private evidence of a locked release.

A folder like that of a marked one: ``evidence.json`` says which release it is about and names every other file with its SHA-256:
``locks.parquet``, ``grants.json``, the logos, and, once it is complete, ``verdict.json``, what the check measured, and ``steps.json``, the
events of the run. No key is in it that opens a lock.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medmark.components.base.digests import canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.base.private_files import write_private
from medmark.components.evidence.evidence import STEPS, copy_evidence, read_evidence, write_evidence
from medmark.components.evidence.secrets import Secrets
from medmark.components.lineage.events import public_record, read_steps, with_secrets, write_steps

KIND = "locks"
VERDICT = "verdict.json"


def read_lock_evidence(folder: str | Path) -> dict[str, Any]:
    """Content of ``evidence.json``, after checking every file that it names.

    Raises:
        MedmarkError: something is missing or changed, or the evidence is not that of a locked release.
    """
    evidence = read_evidence(folder)
    if evidence.get("kind") != KIND:
        raise MedmarkError(
            f"no evidence of a locked release: {folder}; give what was written beside the locked release"
        )
    return evidence


def finish_lock_evidence(
    release_dir: str | Path,
    evidence_dir: str | Path,
    out_dir: str | Path,
    record_file: str | Path,
    *,
    verdict: dict[str, Any],
    events: list[dict],
    drawn: Secrets,
) -> dict[str, Any]:
    """Copies the evidence, adds the verdict and the run's events, and writes the public record of how the release was made.

    Args:
        release_dir: the locked release.
        evidence_dir: as the locking step wrote it.
        out_dir: gets the complete evidence; readable by its owner only.
        record_file: gets the record as JSON.
        verdict: content of the check's ``verdict.json``.
        events: of all steps, see :func:`medmark.components.lineage.events.step_event`; none may refer to the key of the locks.
        drawn: the run's secrets, which events may refer to.

    Returns:
        The content of the new ``evidence.json``.
    """
    evidence, out = read_lock_evidence(evidence_dir), Path(out_dir)
    copy_evidence(Path(evidence_dir), out, evidence)
    write_steps(out, [with_secrets(event, drawn) for event in events])
    write_private(out / VERDICT, canonical_json(verdict))
    evidence["files"] |= {name: file_sha256(out / name) for name in (VERDICT, STEPS)}
    write_evidence(out, evidence)
    record = public_record(release_dir, read_steps(out), verdict=verdict["verdict"])
    Path(record_file).write_bytes(canonical_json(record))
    return evidence
