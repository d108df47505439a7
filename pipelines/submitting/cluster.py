"""What a submission is as a run on a cluster: pipeline and arguments."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path

from medmark.pipelines.submitting.kfp_server import KfpServer
from medmark.pipelines.submitting.submission import Submission


def submit_to_server(submission: Submission, server: KfpServer) -> tuple[object, bool]:
    """Starts the run of a submission unless there is one that did not fail.

    Args:
        submission: what to run.
        server: where.

    Returns:
        The run, and whether it is new.

    Raises:
        MedmarkError: the server refuses.
    """
    if submission.pipeline == "mark-release":
        from medmark.pipelines.mark_release.pipeline import mark_release

        return server.submit(submission.name, mark_release, lambda: mark_arguments(submission))
    from medmark.pipelines.update_release.pipeline import update_release

    return server.submit(submission.name, update_release, lambda: update_arguments(submission))


def mark_arguments(submission: Submission) -> dict:
    """Arguments of mark_release; its secret seeds are drawn here."""
    from medmark.pipelines.mark_release.profiles import PROFILES
    from medmark.pipelines.mark_release.run import Secrets, pipeline_arguments

    settings = {name: str(value) for name, value in submission.parameters.items()}
    profile, version = settings.pop("profile"), settings.pop("version")
    chosen = PROFILES[profile].with_settings(settings)
    with tempfile.TemporaryDirectory() as folder:
        drawn = Secrets.kept(Path(folder) / "secrets.json")
    arguments = pipeline_arguments(chosen, submission.release, {}, version, drawn, state=submission.release_digest)
    return {**arguments, "parameters": {"profile": profile, **asdict(chosen), "data": submission.release_digest}}


def update_arguments(submission: Submission) -> dict:
    """Arguments of update_release."""
    from medmark.pipelines.update_release.run import check_seed, next_version

    options = dict(submission.parameters)
    version = options.pop("version", None) or next_version(submission.release_version)
    return {
        "source": submission.drop,
        "source_state": submission.drop_listing,
        "drop_options": options,
        "previous_uri": submission.release,
        "evidence_uri": submission.evidence,
        "keep_uri": submission.keep,
        "previous_digest": submission.release_digest,
        "version": version,
        "seed": check_seed(submission.release_digest),
    }
