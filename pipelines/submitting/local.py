"""Runs a submission on this machine and publishes what comes out."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from medmark.components.base.atomic import write_atomic
from medmark.components.base.digests import canonical_json
from medmark.components.base.errors import MedmarkError, cannot_write
from medmark.components.base.locks import locked
from medmark.components.base.private_files import check_own, private_files, private_folder
from medmark.components.delivery.drops import fetch_drop
from medmark.components.delivery.places import Places
from medmark.components.delivery.publish import fetch_evidence, fetch_keep, fetch_release
from medmark.components.delivery.run_outputs import UNCHANGED, may_go_out, publish_run
from medmark.components.delivery.submission_records import read_record
from medmark.components.storage.store import Store
from medmark.pipelines.submitting.submission import LOCKED_WITH, Submission


@dataclass(frozen=True)
class Target:
    """Where a local submission works and publishes.

    Attributes:
        releases: where releases go, ``s3://bucket/prefix``.
        evidence: where evidence, keep and records of submissions go, ``s3://bucket/prefix`` in another bucket.
        store: object store of the marked releases.
        evidence_store: object store of evidence, drops and clean releases.
        work: private folder for what is fetched and made meanwhile.
        key: ``medmark.key`` that signs what comes out; None: nothing is signed.
        publish_weak: whether a locked release may go out whose locks are weak.
        debug: show all that the steps print.
    """

    releases: str
    evidence: str
    store: Store
    evidence_store: Store
    work: Path
    key: Path | None = None
    publish_weak: bool = False
    debug: bool = False


class Done(NamedTuple):
    """What became of a submission.

    Attributes:
        record: its record, see :func:`medmark.components.delivery.submission_records.new_record`.
        new: whether it was done now, and not before.
    """

    record: dict
    new: bool


def run_mark(submission: Submission, inputs: Path, out: Path, debug: bool) -> dict:
    """Runs mark-release and returns its verdict."""
    from medmark.pipelines.mark_release.run import run_mark_release

    settings = dict(submission.parameters)
    profile, version, drawing = settings.pop("profile"), settings.pop("version"), settings.pop("drawing", {})
    return run_mark_release(
        out,
        data=str(inputs / "release"),
        profile=profile,
        settings=settings,
        version=version,
        drawing=drawing.get("file"),
        drawn_with=drawing.get("value"),
        debug=debug,
    )


def run_update(submission: Submission, inputs: Path, out: Path, debug: bool) -> dict:
    """Runs update-release and returns its verdict."""
    from medmark.pipelines.update_release.run import run_update_release

    options = dict(submission.parameters)
    version = options.pop("version", None)
    return run_update_release(inputs, out, data=inputs / "drop", drop_options=options, version=version, debug=debug)


def run_lock(submission: Submission, inputs: Path, out: Path, debug: bool) -> dict:
    """Runs lock-release and returns its verdict."""
    from medmark.pipelines.lock_release.run import run_lock_release

    settings = dict(submission.parameters)
    own = {name: settings.pop(name) for name in ("profile", "version", "recipients", "text") if name in settings}
    with Places() as places:
        logos = [places.read(logo["file"], raw=True, private=True) for logo in settings.pop("logos", [])]
        source = str(inputs / "release")
        verdict = run_lock_release(
            out, data=source, ingest_options=LOCKED_WITH, settings=settings, logos=logos, **own, debug=debug
        )
    return verdict


def run_segmenter(submission: Submission, inputs: Path, out: Path, debug: bool) -> dict:
    """Runs mark-segmenter and returns its verdict."""
    from medmark.pipelines.mark_segmenter.run import run_mark_segmenter

    settings = dict(submission.parameters)
    own = {name: settings.pop(name) for name in ("profile", "text", "name", "version")}
    drawing, weights = settings.pop("drawing", {}), settings.pop("weights", None)
    with Places() as places:
        model = places.read(weights["file"], raw=True, private=True) if weights else None
        verdict = run_mark_segmenter(
            out,
            data=str(inputs / "release"),
            settings=settings,
            model=model,
            drawing=drawing.get("file"),
            drawn_with=drawing.get("value"),
            **own,
            debug=debug,
        )
    return verdict


RUNNERS = {
    "mark-release": run_mark,
    "update-release": run_update,
    "lock-release": run_lock,
    "mark-segmenter": run_segmenter,
}


def submit_locally(
    submission: Submission, target: Target, *, runners: dict[str, Callable[..., dict]] = RUNNERS
) -> Done:
    """Runs a submission unless it was done, publishes what comes out, and writes the record, in this order.

    If something fails, ``<work>/<16 digits of the key>`` keeps what was finished, and a second call goes on from there.
    Of two calls at once on one machine, the second is refused. On two machines both run, and the one that ends later finds the
    record of the other and throws its own result away. That can fail in the seconds between looking and publishing: then both
    releases of a first marking are published, and :func:`medmark.pipelines.submitting.reconcile.read_chain` names them.

    Args:
        submission: what to run.
        target: where to run it.
        runners: function by name of the pipeline, called with submission, folder of inputs, output folder and debug.

    Returns:
        The record, and whether it is new.

    Raises:
        MedmarkError: the mark does not work, or the locks are weak or do harm, so nothing is published; the drop changed; or what run
            and store raise.
    """
    with _private_folder(target.work.resolve() / submission.key[:16]) as folder:
        known = read_record(submission.key, target.evidence, target.evidence_store)
        if known:
            shutil.rmtree(folder)
            return Done(known, False)
        verdict = _run(submission, folder, target, runners[submission.pipeline])
        out, signatures = folder / "out", folder / "signatures"
        publishable = may_go_out(verdict["verdict"], weak=target.publish_weak)
        if publishable and target.key and not signatures.exists():
            _sign(out, folder / "release" if submission.drop else None, target.key, signatures)
        known = read_record(submission.key, target.evidence, target.evidence_store)
        if known:
            shutil.rmtree(folder)
            return Done(known, False)
        try:
            publish_run(
                verdict,
                made_in(out),
                out / "evidence",
                out / "keep" if (out / "keep").exists() else None,
                signatures_dir=signatures if target.key else None,
                releases=target.releases,
                evidence=target.evidence,
                store=target.store,
                evidence_store=target.evidence_store,
                submission=submission.stated,
                weak=target.publish_weak,
            )
        except MedmarkError as error:
            if publishable or verdict["verdict"] == UNCHANGED:
                raise
            raise MedmarkError(f"{error}; see {out}; to try again with the same input, remove {folder}") from error
        record = read_record(submission.key, target.evidence, target.evidence_store)
        if record is None:
            raise MedmarkError(
                f"the record of {submission.key} is gone from {target.evidence}; run the same command again"
            )
        shutil.rmtree(folder)
    return Done(record, True)


def _run(submission: Submission, folder: Path, target: Target, runner: Callable[..., dict]) -> dict:
    """Returns the verdict of the run, and runs it unless it has ended before."""
    ended = folder / "ended.json"
    if not ended.exists():
        source = target.store if submission.drop else target.evidence_store  # a clean release is private
        fetch_release(submission.release, folder / "release", source)
        if drop := submission.drop:
            fetch_evidence(drop.evidence, folder / "evidence", target.evidence_store)
            fetch_keep(drop.keep, folder / "keep", target.evidence_store)
            fetch_drop(drop.uri, folder / "drop", drop.listing, target.evidence_store)
        verdict = runner(submission, folder, folder / "out", target.debug)
        write_atomic(ended, canonical_json(verdict))
    return json.loads(ended.read_bytes())


def made_in(out: Path) -> Path:
    """Returns the folder in a run's output that goes out: the marked model if there is one, else the release."""
    return out / ("model" if (out / "model").exists() else "release")


def _sign(out: Path, parent: Path | None, key: Path, signatures: Path) -> None:
    """Signs what a run made; loads the cryptography only when needed."""
    from medmark.components.lineage.keys import ask_passphrase, load_private
    from medmark.components.lineage.signing import sign_run
    from medmark.components.locking.certificate import certifier

    private = load_private(key, ask_passphrase())
    sign_run(
        made_in(out),
        out / "evidence",
        private,
        signatures,
        record_file=out / "record.json",
        parent=parent,
        certify=certifier(out / "evidence"),
    )


@contextlib.contextmanager
def _private_folder(folder: Path) -> Iterator[Path]:
    """Makes a folder in which no other process works meanwhile. Only its owner can read it and what the block writes."""
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
