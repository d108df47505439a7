"""Reading the private evidence of a marked release."""

from __future__ import annotations

import json
from pathlib import Path

from medmark.components.base.digests import first_changed
from medmark.components.base.errors import MedmarkError

EVIDENCE_SCHEMA_VERSION = 1
STEPS = "steps.json"  # the private events of the run, see lineage/events.py


def read_evidence(directory: str | Path) -> dict:
    """Content of ``evidence.json``, after checking every file it names.

    Raises:
        MedmarkError: something is missing or changed.
    """
    path = Path(directory) / "evidence.json"
    try:
        evidence = json.loads(path.read_bytes())
        version, files = evidence["schema_version"], dict(evidence["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise MedmarkError(
            f"no readable evidence: {path} ({error}); restore the evidence folder from a backup"
        ) from error
    if version != EVIDENCE_SCHEMA_VERSION:
        raise MedmarkError(
            f"unknown evidence version {version!r}: {path}; this medmark reads {EVIDENCE_SCHEMA_VERSION}"
        )
    if (file := first_changed(directory, files)) is not None:
        raise MedmarkError(f"evidence changed or missing: {file}; restore the evidence folder from a backup")
    return evidence
