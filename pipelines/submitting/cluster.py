"""A submission as a run on a KFP API server: its pipeline, its arguments, and waiting for its record."""

from __future__ import annotations

import re
from dataclasses import dataclass

from medmark.components.base.errors import MedmarkError
from medmark.components.delivery.run_outputs import check_apart
from medmark.components.delivery.submission_records import read_record
from medmark.components.storage.place import parse
from medmark.components.storage.store import Store
from medmark.pipelines.submitting.kfp_server import KfpServer, Run, Started
from medmark.pipelines.submitting.submission import LOCKED_WITH, Submission

ROOT = re.compile(r"[a-z][a-z0-9+.-]*://([^/\s?]+)")


@dataclass(frozen=True)
class ClusterTarget:
    """Where a submission runs and publishes.

    Attributes:
        server: server that runs it.
        releases: where releases go, ``s3://bucket/prefix``.
        evidence: where evidence, keep and records of submissions go, ``s3://bucket/prefix`` in another bucket.
        evidence_store: object store with credentials that may read the records.
        sign: whether the run signs what it makes, with the key in the cluster's secret.
        publish_weak: whether a locked release may go out whose locks are weak.
        anew: whether a submission that failed begins with the first step, and draws other secrets, instead of going on.
    """

    server: KfpServer
    releases: str
    evidence: str
    evidence_store: Store
    sign: bool = False
    publish_weak: bool = False
    anew: bool = False


def check_places(releases: str, evidence: str, pipeline_root: str | None) -> None:
    """Refuses places that would mix what is public with what is private.

    Args:
        releases, evidence: see :class:`ClusterTarget`.
        pipeline_root: where the server keeps what the steps pass on; None: where it does by default.

    Raises:
        MedmarkError: releases and evidence share a bucket, or the root is no address or lies in the bucket of the releases.
    """
    check_apart(releases, evidence)
    if pipeline_root is None:
        return
    root = ROOT.match(pipeline_root)
    if not root:
        raise MedmarkError(
            f"pipeline root is no address: {pipeline_root}; give scheme://bucket/prefix, as the server's store has it"
        )
    if root[1] == parse(releases).bucket:
        raise MedmarkError(
            f"pipeline root in the bucket of the releases: {pipeline_root}; the steps pass on secrets and evidence, so take"
            " another bucket"
        )


def submit_to_server(submission: Submission, target: ClusterTarget) -> Started:
    """Starts the run of a submission unless there is one that did not fail.

    Args:
        submission: what to run.
        target: where to run it.

    Returns:
        The run, and whether it is new.

    Raises:
        MedmarkError: the server refuses.
    """
    from medmark.pipelines.compile import pipelines

    (pipeline,) = (known for known in pipelines() if known.name == submission.pipeline)
    arguments = ARGUMENTS[submission.pipeline]
    out = {"publish_uri": target.releases, "publish_evidence_uri": target.evidence, "sign": target.sign}
    out["submission"] = submission.stated
    if target.publish_weak:
        out["publish_weak"] = True
    return target.server.submit(submission.name, pipeline, lambda: arguments(submission) | out, anew=target.anew)


def wait_for_record(run: Run, submission: Submission, target: ClusterTarget, timeout: float) -> dict:
    """Waits for a run and returns the record that it writes last.

    Args:
        run: as :func:`submit_to_server` returns it.
        submission: what it runs.
        target: where it runs.
        timeout: seconds to wait for the run.

    Raises:
        MedmarkError: the run fails or takes too long, or leaves no record.
    """
    target.server.wait(run, timeout)
    record = read_record(submission.key, target.evidence, target.evidence_store)
    if record is None:
        raise MedmarkError(
            f"run {target.server.url(run)} succeeded and left no record in {parse(target.evidence)}: it was told to publish"
            " elsewhere; give the places that it was given, or delete that run"
        )
    return record


def mark_arguments(submission: Submission) -> dict:
    """Returns the arguments of mark_release; the run draws its secrets itself, or takes a drawing's file."""
    settings = dict(submission.parameters)
    profile, version, drawing = settings.pop("profile"), settings.pop("version"), settings.pop("drawing", {})
    return {
        "source": submission.release,
        "profile": profile,
        "overrides": settings,
        "name": submission.release_digest,
        "version": version,
        "source_state": submission.release_digest,
        "drawn_for": submission.key,
        **({"drawing": drawing} if drawing else {}),
    }


def lock_arguments(submission: Submission) -> dict:
    """Returns the arguments of lock_release."""
    settings = dict(submission.parameters)
    own = {
        name: settings.pop(name) for name in ("profile", "version", "recipients", "text", "logos") if name in settings
    }
    return {
        "source": submission.release,
        "overrides": settings,
        "ingest_options": dict(LOCKED_WITH),
        "name": submission.release_digest,
        "source_state": submission.release_digest,
        "drawn_for": submission.key,
        **own,
    }


def segmenter_arguments(submission: Submission) -> dict:
    """Returns the arguments of mark_segmenter; the run draws its secrets itself, or takes a drawing's file."""
    settings = dict(submission.parameters)
    own = {name: settings.pop(name) for name in ("profile", "text", "name", "version", "drawing") if name in settings}
    weights = settings.pop("weights", None)
    return {
        "source": submission.release,
        "overrides": settings,
        "data_name": submission.release_digest,
        "source_state": submission.release_digest,
        "drawn_for": submission.key,
        **own,
        **({"weights": weights["file"], "weights_sha256": weights["sha256"]} if weights else {}),
    }


def update_arguments(submission: Submission) -> dict:
    """Returns the arguments of update_release."""
    from medmark.pipelines.update_release.run import check_seed, next_version

    drop = submission.drop
    assert drop is not None
    options = dict(submission.parameters)
    version = options.pop("version", None) or next_version(submission.release_version)
    return {
        "source": drop.uri,
        "source_state": drop.listing,
        "drop_options": options,
        "previous_uri": submission.release,
        "evidence_uri": drop.evidence,
        "keep_uri": drop.keep,
        "previous_digest": submission.release_digest,
        "evidence_digest": digest_of(drop.evidence),
        "keep_digest": digest_of(drop.keep),
        "version": version,
        "seed": check_seed(submission.release_digest),
    }


ARGUMENTS = {
    "mark-release": mark_arguments,
    "update-release": update_arguments,
    "lock-release": lock_arguments,
    "mark-segmenter": segmenter_arguments,
}


def digest_of(uri: str) -> str:
    """Returns the digest of what was published: the last part of its address."""
    return parse(uri).prefix.rpartition("/")[2]
