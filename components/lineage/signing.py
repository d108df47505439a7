"""Signs what a run made: commits to its evidence and signs its lineage."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from medmark.components.delivery.linked_copy import copy_linked
from medmark.components.lineage.commitment import OPENING, commit
from medmark.components.lineage.record import COMMITMENT, LINEAGE, sign_lineage


def sign_run(
    release_dir: str | Path,
    evidence_dir: str | Path,
    record_file: str | Path,
    private_key: Ed25519PrivateKey,
    out_dir: str | Path,
    *,
    parent: str | Path | None,
) -> None:
    """Commits to the evidence and signs the lineage; leaves release and evidence as they are.

    Args:
        release_dir: the marked release.
        evidence_dir: its complete evidence.
        record_file: ``record.json`` of the run.
        private_key: see :func:`medmark.components.lineage.keys.load_private`.
        out_dir: folder that gets ``opening.json``, which is private, ``commitment.json`` and ``lineage.json``, all at once.
        parent: the previous marked release with its ``lineage.json``, if this one updates it.

    Raises:
        MedmarkError: what :func:`medmark.components.lineage.commitment.commit` and
            :func:`medmark.components.lineage.record.sign_lineage` raise.
    """
    out = Path(out_dir)
    with tempfile.TemporaryDirectory(prefix="signing-", dir=out.parent) as folder:
        release, evidence, made = (Path(folder) / name for name in ("release", "evidence", "made"))
        made.mkdir(mode=0o700)
        copy_linked(release_dir, release)
        copy_linked(evidence_dir, evidence)
        commit(release, evidence, private_key, made / COMMITMENT)
        sign_lineage(release, record_file, private_key, commitment=made / COMMITMENT, parent=parent)
        shutil.copyfile(evidence / OPENING, made / OPENING)
        shutil.copyfile(release / LINEAGE, made / LINEAGE)
        os.replace(made, out)
