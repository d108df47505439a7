"""The private evidence of a marked release: ``evidence.json``, which names the SHA-256 of every other file.

The other files: ``ledger.parquet`` (ledger.py), ``queries.parquet`` (queries.py), ``generator/`` with the generator and the
roles of the images, and, once the evidence is complete, ``innocents.parquet`` (answers.py), ``waves.parquet`` (key_answers.py) and
``steps.json``. Evidence of version 1 has no ``waves.parquet``: its marks have no key.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from medmark.components.base.atomic import write_atomic
from medmark.components.base.digests import canonical_json, first_changed
from medmark.components.base.errors import MedmarkError

EVIDENCE_SCHEMA_VERSION = 2
READABLE = (1, 2)
EVIDENCE = "evidence.json"
STEPS = "steps.json"  # the private events of the run, see lineage/events.py


def read_evidence(directory: str | Path) -> dict[str, Any]:
    """Content of ``evidence.json``, after checking every file it names.

    Raises:
        MedmarkError: something is missing or changed.
    """
    path = Path(directory) / EVIDENCE
    try:
        evidence = json.loads(path.read_bytes())
        version, files = evidence["schema_version"], dict(evidence["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise MedmarkError(
            f"no readable evidence: {path} ({error}); restore the evidence folder from a backup"
        ) from error
    if version not in READABLE:
        raise MedmarkError(
            f"unknown evidence version {version!r}: {path}; this medmark reads {' and '.join(map(str, READABLE))}"
        )
    if (file := first_changed(directory, files)) is not None:
        raise MedmarkError(f"evidence changed or missing: {file}; restore the evidence folder from a backup")
    return evidence


def write_evidence(directory: str | Path, evidence: dict[str, Any]) -> dict[str, Any]:
    """Writes ``evidence.json``, last of all files, and returns its content."""
    write_atomic(Path(directory) / EVIDENCE, canonical_json(evidence))
    return evidence


def copy_evidence(source: Path, out: Path, evidence: dict[str, Any]) -> list[str]:
    """Copies the files of evidence to a private folder, for evidence of another release.

    Args:
        source: folder of the evidence.
        out: made if missing; readable by its owner only.
        evidence: content of its ``evidence.json``, which is not copied, and neither is ``steps.json``: it is of that run.

    Returns:
        Names of the files.
    """
    out.mkdir(parents=True, exist_ok=True)
    os.chmod(out, 0o700)
    names = [name for name in evidence["files"] if name != STEPS]
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, out / name)
    return names
