"""Signs what a run made: commits to its evidence, or certifies its locks, and signs its lineage."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from medmark.components.delivery.linked_copy import copy_linked
from medmark.components.lineage.commitment import commit
from medmark.components.lineage.record import COMMITMENT, sign_lineage

Certify = Callable[[Path, Path, Ed25519PrivateKey], object]


def sign_run(
    subject_dir: str | Path,
    evidence_dir: str | Path,
    private_key: Ed25519PrivateKey,
    out_dir: str | Path,
    *,
    record_file: str | Path,
    parent: str | Path | None = None,
    certify: Certify | None = None,
) -> None:
    """Commits to the evidence and signs the lineage; leaves what the run made as it is.

    The images of a release are neither needed nor checked: publishing checks them before it sends anything.

    Args:
        subject_dir: the marked or locked release, or its manifest alone, or the marked model.
        evidence_dir: its complete evidence.
        private_key: see :func:`medmark.components.lineage.keys.load_private`.
        out_dir: folder that gets all files that signing adds, at once: ``commitment.json`` and, private, ``opening.json``, or what
            ``certify`` writes; and ``lineage.json``.
        record_file: ``record.json`` of the run.
        parent: the previous marked release with its ``lineage.json``, if this one updates it; its images are not needed.
        certify: signs a locked release, given copies of it and of its evidence, instead of the commitment; see
            :func:`medmark.components.locking.certificate.certifier`.

    Raises:
        MedmarkError: what :func:`medmark.components.lineage.commitment.commit`,
            :func:`medmark.components.lineage.record.sign_lineage` and ``certify`` raise.
    """
    out = Path(out_dir)
    with tempfile.TemporaryDirectory(prefix="signing-", dir=out.parent) as folder:
        subject, evidence, made = (Path(folder) / name for name in ("subject", "evidence", "made"))
        made.mkdir(mode=0o700)
        copy_linked(subject_dir, subject)
        copy_linked(evidence_dir, evidence)
        commitment = None
        if certify is not None:
            certify(subject, evidence, private_key)
        else:
            commitment = made / COMMITMENT
            commit(subject, evidence, private_key, commitment)
        sign_lineage(subject, record_file, private_key, commitment=commitment, parent=parent, images=False)
        for copy, before in ((subject, subject_dir), (evidence, evidence_dir)):
            for name in set(os.listdir(copy)) - set(os.listdir(before)):
                shutil.copyfile(copy / name, made / name)
        os.replace(made, out)
