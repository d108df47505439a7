"""Releases, evidence and what updates need on their way into a pipeline and out of it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from medmark.components.base.digests import file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.release import Release
from medmark.components.delivery.places import is_place
from medmark.components.delivery.publish import Kind, fetch, publish, publish_evidence, publish_keep
from medmark.components.delivery.submissions import new_record, read_record, write_record
from medmark.components.evidence.evidence import read_evidence
from medmark.components.evidence.keep import read_keep
from medmark.components.storage.place import parse
from medmark.components.storage.store import Store
from medmark.components.tracking.registry import promote

SIGNED = {"release": ("commitment.json", "lineage.json"), "evidence": ("opening.json",)}


def take(kind: Kind, uri: str, digest: str, out: str | Path) -> None:
    """Brings what a pipeline starts from to where its first step writes.

    Args:
        kind: what it is.
        uri: ``s3://bucket/prefix/<digest>`` in the store that the environment describes, or a folder of this machine.
        digest: SHA-256 that its manifest must have.
        out: absent; shares the files' content with a folder of this machine where the file system can.

    Raises:
        MedmarkError: nothing of this kind is there, something does not match its digest, or the store fails.
    """
    if is_place(uri):
        fetch(kind, uri, out, Store.from_environment("evidence" if kind.private else ""), digest)
        return
    manifest = Path(uri) / kind.manifest
    if not manifest.is_file() or file_sha256(manifest) != digest:
        raise MedmarkError(f"not what the run was started with: {manifest}; start it again")
    copy_linked(uri, out)


def copy_linked(folder: str | Path, out: str | Path) -> None:
    """A new private folder of hard links to the files of another, of copies where the file system has none. Files may be added
    to it and removed from it, but not changed in place."""
    for above, _, files in os.walk(folder, followlinks=True):
        target = Path(out) / Path(above).relative_to(folder)
        target.mkdir(mode=0o700, parents=True)
        for name in files:
            file = os.path.realpath(Path(above) / name)  # a link to a symbolic link would lead elsewhere
            try:
                os.link(file, target / name)
            except OSError:  # another file system, or one without links
                shutil.copyfile(file, target / name)


def check_apart(releases: str, evidence: str) -> None:
    """Refuses one bucket for both: whoever may read the releases must not be able to read the evidence.

    Raises:
        MedmarkError: it is the same, or one is no place in a store.
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
    """Publishes what a run made, the release last, gives its registered models the alias ``released``, and writes the record of
    the submission. If there is a record, nothing is done.

    Args:
        verdict: content of the run's ``verdict.json``.
        release_dir, evidence_dir, keep_dir: what it made.
        signatures_dir: what :func:`medmark.components.lineage.signing.sign_run` wrote; None: nothing is signed.
        releases: where the release goes, ``s3://bucket/prefix``.
        evidence: where evidence, keep and record go, in another bucket.
        store: for the release.
        evidence_store: for the rest.
        submission: see :func:`medmark.components.delivery.submissions.new_record`; None: no record.

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
            made = {"release": release_dir, "evidence": evidence_dir}
            for name, path in made.items():
                copy_linked(path, Path(folder) / name)
                for file in SIGNED[name] if signatures_dir else ():
                    (Path(folder) / name / file).unlink(missing_ok=True)  # it may be a link
                    shutil.copyfile(Path(signatures_dir) / file, Path(folder) / name / file)
            # the release last: whoever finds it can update it
            publish_evidence(Path(folder) / "evidence", evidence, evidence_store)
            publish_keep(keep_dir, evidence, evidence_store)
            result = publish(Path(folder) / "release", releases, store).digest
        promote(result, above)
    if submission:
        write_record(new_record(submission, result), evidence, evidence_store)
    return result


def _check_one_run(
    verdict: dict, release: Release, evidence_dir: str | Path, keep_dir: str | Path, submission: dict | None
) -> None:
    """Refuses a release that is not the one that was checked, or not made of what was submitted."""
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
