"""What a run made on its way out of a pipeline: release, evidence and keep are published, and the submission is recorded."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.release import Release
from medmark.components.delivery.linked_copy import copy_linked
from medmark.components.delivery.publish import publish, publish_evidence, publish_keep
from medmark.components.delivery.submission_records import new_record, read_record, write_record
from medmark.components.evidence.evidence import read_evidence
from medmark.components.evidence.keep import read_keep
from medmark.components.storage.place import parse
from medmark.components.storage.store import Store
from medmark.components.tracking.registry import promote

SIGNED = {"release": ("commitment.json", "lineage.json"), "evidence": ("opening.json",)}


def check_apart(releases: str, evidence: str) -> None:
    """Refuses one bucket for both: credentials that open the releases must not open the evidence.

    Args:
        releases: where releases go, ``s3://bucket/prefix``.
        evidence: where evidence goes, ``s3://bucket/prefix``.

    Raises:
        MedmarkError: both are in one bucket, or one is no place in a store.
    """
    if parse(releases).bucket == parse(evidence).bucket:
        raise MedmarkError(f"one bucket for releases and evidence: {releases}, {evidence}; give the evidence another")


def publish_run(
    verdict: dict,
    release_dir: str | Path,
    evidence_dir: str | Path,
    keep_dir: str | Path,
    *,
    signatures_dir: str | Path | None,
    releases: str,
    evidence: str,
    store: Store,
    evidence_store: Store,
    submission: dict | None,
) -> str | None:
    """Publishes what a run made and writes the record of its submission.

    The release goes out last, and then its registered models get the alias ``released``. If the submission has a record already,
    nothing is done.

    Args:
        verdict: content of the run's ``verdict.json``.
        release_dir: the release that the run made.
        evidence_dir: its evidence.
        keep_dir: what was kept for its updates.
        signatures_dir: what :func:`medmark.components.lineage.signing.sign_run` wrote; None: nothing is signed.
        releases: where the release goes, ``s3://bucket/prefix``.
        evidence: where evidence, keep and record go, in another bucket.
        store: object store for the release.
        evidence_store: object store for the rest.
        submission: see :func:`medmark.components.delivery.submission_records.new_record`; no record if None or empty.

    Returns:
        Digest of the release, as the record has it; None if nothing changed, so that there is nothing to publish.

    Raises:
        MedmarkError: the mark does not work, the folders are not of one run, or the store fails; a second call goes on.
    """
    check_apart(releases, evidence)
    known = read_record(submission["key"], evidence, evidence_store) if submission else None
    if known:
        return known["result"]
    result = None
    if verdict["verdict"] != "unchanged":
        if verdict["verdict"] != "owned":
            reasons = "; ".join(verdict["reasons"])[:300]
            raise MedmarkError(f"verdict {verdict['verdict']!r}, nothing is published: {reasons}")
        _check_one_run(verdict, Release(release_dir), evidence_dir, keep_dir, submission)
        above = Path(release_dir).parent  # on the same disk, so that links can do
        with tempfile.TemporaryDirectory(prefix="publishing-", dir=above) as folder:
            signed = _with_signatures(Path(folder), release_dir, evidence_dir, signatures_dir)
            # the release last: an update may start as soon as it is there
            publish_evidence(signed / "evidence", evidence, evidence_store)
            publish_keep(keep_dir, evidence, evidence_store)
            result = publish(signed / "release", releases, store).digest
        promote(result, above)
    if submission:
        write_record(new_record(submission, result), evidence, evidence_store)
    return result


def _with_signatures(
    folder: Path, release_dir: str | Path, evidence_dir: str | Path, signatures_dir: str | Path | None
) -> Path:
    """Makes copies of release and evidence with the signatures beside them; returns the folder they are in."""
    for name, made in (("release", release_dir), ("evidence", evidence_dir)):
        copy_linked(made, folder / name)
        if signatures_dir is not None:
            for file in SIGNED[name]:
                (folder / name / file).unlink(missing_ok=True)  # it may be a link
                shutil.copyfile(Path(signatures_dir) / file, folder / name / file)
    return folder


def _check_one_run(
    verdict: dict, release: Release, evidence_dir: str | Path, keep_dir: str | Path, submission: dict | None
) -> None:
    """Refuses a release that is not the one that was checked, or that was not made from what was submitted."""
    said = {
        "verdict": verdict["release_digest"],
        "evidence": read_evidence(evidence_dir)["release_digest"],
        "keep": read_keep(keep_dir)["release_digest"],
    }
    for name, digest in said.items():
        if digest != release.digest:
            raise MedmarkError(f"{name} of another release than {release.path}: {digest}; run the pipeline again")
    if submission and submission["release_digest"] != release.parent:
        raise MedmarkError(
            f"made of another release than was submitted: {release.path} comes from {release.parent}; run the pipeline again"
        )
