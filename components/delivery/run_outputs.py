"""What a run made on its way out of a pipeline: release or model, evidence and keep are published, and the submission is recorded."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from medmark.components.base.errors import MedmarkError
from medmark.components.delivery.linked_copy import copy_linked
from medmark.components.delivery.publish import EVIDENCE, MARKED_MODEL, RELEASE, publish, publish_evidence, publish_keep
from medmark.components.delivery.submission_records import new_record, read_record, write_record
from medmark.components.evidence.evidence import read_evidence
from medmark.components.evidence.keep import read_keep
from medmark.components.evidence.marked_model import MarkedModel, read_subject
from medmark.components.storage.place import parse
from medmark.components.storage.store import Store
from medmark.components.tracking.registry import promote

WORKS, WEAK, UNCHANGED = ("owned", "locked"), "weak", "unchanged"  # verdicts
SIGNED = {"subject": {*RELEASE.sidecars, *MARKED_MODEL.sidecars}, "evidence": {*EVIDENCE.sidecars}}


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


def may_go_out(verdict: str, *, weak: bool) -> bool:
    """Tells whether what a run made may be signed and published.

    Args:
        verdict: of the run.
        weak: whether the owner lets a locked release go out whose locks are weak: no lesion is covered and every image comes back, but
            classifiers see more than they may.
    """
    return verdict in WORKS or (weak and verdict == WEAK)


def publish_run(
    verdict: dict,
    subject_dir: str | Path,
    evidence_dir: str | Path,
    keep_dir: str | Path | None = None,
    *,
    signatures_dir: str | Path | None,
    releases: str,
    evidence: str,
    store: Store,
    evidence_store: Store,
    submission: dict | None,
    weak: bool = False,
) -> str | None:
    """Publishes what a run made and writes the record of its submission.

    The release or model goes out last, and then its registered models get the alias ``released``. If the submission has a record
    already, nothing is done.

    Args:
        verdict: content of the run's ``verdict.json``.
        subject_dir: the release or the marked model that the run made.
        evidence_dir: its evidence.
        keep_dir: what was kept for its updates; None: there are none.
        signatures_dir: what :func:`medmark.components.lineage.signing.sign_run` wrote; None: nothing is signed.
        releases: where the release or model goes, ``s3://bucket/prefix``.
        evidence: where evidence, keep and record go, in another bucket.
        store: object store for the release or model.
        evidence_store: object store for the rest.
        submission: see :func:`medmark.components.delivery.submission_records.new_record`; no record if None or empty.
        weak: see :func:`may_go_out`.

    Returns:
        Digest of the release or model, as the record has it; None if nothing changed, so that there is nothing to publish.

    Raises:
        MedmarkError: the mark does not work, a lock is weak or does harm, the folders are not of one run, or the store fails; a second
            call goes on.
    """
    check_apart(releases, evidence)
    known = read_record(submission["key"], evidence, evidence_store) if submission else None
    if known:
        return known["result"]
    result = None
    if verdict["verdict"] != UNCHANGED:
        if not may_go_out(verdict["verdict"], weak=weak):
            reasons = "; ".join(verdict["reasons"])[:300]
            leave = "; give --publish-weak if it is to go out as it is" if verdict["verdict"] == WEAK else ""
            raise MedmarkError(f"verdict {verdict['verdict']!r}, nothing is published: {reasons}{leave}")
        _check_one_run(verdict, Path(subject_dir), evidence_dir, keep_dir, submission)
        above = Path(subject_dir).parent  # on the same disk, so that links can do
        with tempfile.TemporaryDirectory(prefix="publishing-", dir=above) as folder:
            signed = _with_signatures(Path(folder), subject_dir, evidence_dir, signatures_dir)
            # the release last: an update may start as soon as it is there
            publish_evidence(signed / "evidence", evidence, evidence_store)
            if keep_dir is not None:
                publish_keep(keep_dir, evidence, evidence_store)
            result = publish(signed / "subject", releases, store).digest
        promote(result, above)
    if submission:
        write_record(new_record(submission, result), evidence, evidence_store)
    return result


def _with_signatures(
    folder: Path, subject_dir: str | Path, evidence_dir: str | Path, signatures_dir: str | Path | None
) -> Path:
    """Makes copies of what goes out and of the evidence with the signatures beside them; returns the folder they are in."""
    given = {} if signatures_dir is None else {path.name: path for path in Path(signatures_dir).iterdir()}
    if signatures_dir is not None and not given:
        raise MedmarkError(f"no signatures: {signatures_dir} is empty; run the pipeline again")
    for name, made in (("subject", subject_dir), ("evidence", evidence_dir)):
        copy_linked(made, folder / name)
        for file in given.keys() & SIGNED[name]:
            (folder / name / file).unlink(missing_ok=True)  # it may be a link
            shutil.copyfile(given[file], folder / name / file)
    return folder


def _check_one_run(
    verdict: dict,
    subject_dir: Path,
    evidence_dir: str | Path,
    keep_dir: str | Path | None,
    submission: dict | None,
) -> None:
    """Refuses what is not the one that was checked, or was not made from what was submitted."""
    subject = read_subject(subject_dir)
    what = "model" if isinstance(subject, MarkedModel) else "release"
    field = f"{what}_digest"
    said = {"verdict": verdict[field], "evidence": read_evidence(evidence_dir)[field]}
    if keep_dir is not None:
        said["keep"] = read_keep(keep_dir)["release_digest"]
    for name, digest in said.items():
        if digest != subject.digest:
            raise MedmarkError(f"{name} of another {what} than {subject.path}: {digest}; run the pipeline again")
    if submission and submission["release_digest"] != subject.parent:
        raise MedmarkError(
            f"made of another release than was submitted: {subject.path} comes from {subject.parent}; run the pipeline again"
        )
