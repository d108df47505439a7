"""Running a submission on this machine and publishing what comes out."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from medmark.components.base.atomic import write_atomic
from medmark.components.base.digests import canonical_json
from medmark.components.base.errors import MedmarkError, cannot_write
from medmark.components.base.locks import locked
from medmark.components.base.private_files import check_own, private_files, private_folder
from medmark.components.delivery.drops import fetch_drop
from medmark.components.delivery.passing import publish_run
from medmark.components.delivery.publish import fetch_evidence, fetch_keep, fetch_release
from medmark.components.delivery.submissions import read_record
from medmark.components.storage.store import Store
from medmark.pipelines.submitting.submission import Submission


@dataclass(frozen=True)
class Target:
    """Where a local submission works and publishes.

    Attributes:
        releases: where releases go, ``s3://bucket/prefix``.
        evidence: where evidence, what is kept for updates, and records of submissions go, in another bucket.
        store: for the marked releases.
        evidence_store: for evidence, drops and clean releases.
        work: folder for what is fetched and made meanwhile; private.
        key: ``medmark.key`` that signs what comes out; None: nothing is signed.
        debug: show all that the steps print.
    """

    releases: str
    evidence: str
    store: Store
    evidence_store: Store
    work: Path
    key: Path | None = None
    debug: bool = False


def run_mark(submission: Submission, inputs: Path, out: Path, debug: bool) -> dict:
    """Runs mark-release; returns its verdict."""
    from medmark.pipelines.mark_release.run import run_mark_release

    settings = {name: str(value) for name, value in submission.parameters.items()}
    profile, version = settings.pop("profile"), settings.pop("version")
    return run_mark_release(
        out, data=str(inputs / "release"), profile=profile, settings=settings, version=version, debug=debug
    )


def run_update(submission: Submission, inputs: Path, out: Path, debug: bool) -> dict:
    """Runs update-release; returns its verdict."""
    from medmark.pipelines.update_release.run import run_update_release

    options = dict(submission.parameters)
    version = options.pop("version", None)
    return run_update_release(inputs, out, data=inputs / "drop", drop_options=options, version=version, debug=debug)


RUNNERS = {"mark-release": run_mark, "update-release": run_update}


def submit_locally(
    submission: Submission, target: Target, *, runners: dict[str, Callable[..., dict]] = RUNNERS
) -> tuple[dict, bool]:
    """Runs a submission unless it was done, publishes what comes out, and writes the record, in this order.

    What was finished stays in ``<work>/<16 digits of the key>`` when something fails, and a second call goes on from there.
    Two at once on one machine: the second is refused. On two machines: both run; the one that ends later finds the other's
    record and throws its own result away. In the seconds between looking and publishing that can fail; then both
    releases of a first marking lie there, and :func:`medmark.pipelines.submitting.reconcile.read_chain` names them.

    Args:
        submission: what to run.
        target: where to.
        runners: by name of the pipeline: called with submission, folder of inputs, output folder and debug.

    Returns:
        The record, and whether it is new.

    Raises:
        MedmarkError: the mark does not work, so nothing is published; the drop changed; or what run and store raise.
    """
    with _private_folder(target.work.resolve() / submission.key[:16]) as folder:
        known = read_record(submission.key, target.evidence, target.evidence_store)
        if known:
            shutil.rmtree(folder)
            return known, False
        verdict = _run(submission, folder, target, runners[submission.pipeline])
        out, signatures = folder / "out", folder / "signatures" if target.key else None
        if verdict["verdict"] == "owned" and signatures and not signatures.exists():
            _sign(out, folder / "release" if submission.drop else None, target.key, signatures)
        known = read_record(submission.key, target.evidence, target.evidence_store)
        if known:
            shutil.rmtree(folder)
            return known, False
        try:
            publish_run(
                verdict,
                *(out / name for name in ("release", "evidence", "keep")),
                signatures_dir=signatures,
                releases=target.releases,
                evidence=target.evidence,
                store=target.store,
                evidence_store=target.evidence_store,
                submission=submission.stated,
            )
        except MedmarkError as error:
            if verdict["verdict"] in ("owned", "unchanged"):
                raise
            raise MedmarkError(f"{error}; see {out}; to try again with the same input, remove {folder}") from error
        record = read_record(submission.key, target.evidence, target.evidence_store)
        shutil.rmtree(folder)
    return record, True


def _run(submission: Submission, folder: Path, target: Target, runner: Callable[..., dict]) -> dict:
    """The verdict of the run, which is not run again once it has ended."""
    ended = folder / "ended.json"
    if not ended.exists():
        source = target.store if submission.drop else target.evidence_store  # a clean release is private
        fetch_release(submission.release, folder / "release", source)
        if submission.drop:
            fetch_evidence(submission.evidence, folder / "evidence", target.evidence_store)
            fetch_keep(submission.keep, folder / "keep", target.evidence_store)
            fetch_drop(submission.drop, folder / "drop", submission.drop_listing, target.evidence_store)
        verdict = runner(submission, folder, folder / "out", target.debug)
        write_atomic(ended, canonical_json(verdict))
    return json.loads(ended.read_bytes())


def _sign(out: Path, parent: Path | None, key: Path, signatures: Path) -> None:
    """Signs what a run made; loads the cryptography only then."""
    from medmark.components.lineage.keys import ask_passphrase, load_private
    from medmark.components.lineage.signing import sign_run

    private = load_private(key, ask_passphrase())
    sign_run(out / "release", out / "evidence", out / "record.json", private, signatures, parent=parent)


@contextlib.contextmanager
def _private_folder(folder: Path) -> Iterator[Path]:
    """A folder that only its owner may read and that no other process works in; nothing in the block is readable by others."""
    taken = f"submitted at this moment by another process, which works in {folder}; wait for it"
    with private_files():
        try:
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(folder, error, "choose another folder with --work") from error
        with locked(folder.with_name(f".{folder.name}.lock"), taken):
            if os.path.lexists(folder):
                check_own(folder, f"check who else could write there, then remove {folder}")
            yield private_folder(folder)
