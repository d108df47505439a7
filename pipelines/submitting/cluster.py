"""What a submission is as a run on a cluster: pipeline and arguments."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from medmark.components.dataset.release import MAX_MANIFEST_BYTES
from medmark.components.errors import MedmarkError
from medmark.components.platform.store import Store, parse
from medmark.pipelines.submitting.kfp_server import KfpServer
from medmark.pipelines.submitting.submission import Submission


def submit_to_server(submission: Submission, server: KfpServer, evidence_store: Store | None) -> tuple[object, bool]:
    """Starts the run of a submission unless there is one that did not fail.

    Args:
        submission: what to run.
        server: where.
        evidence_store: of an update, for the seed in the evidence.

    Returns:
        The run, and whether it is new.

    Raises:
        MedmarkError: server or store refuse.
    """
    if submission.pipeline == "mark-release":
        from medmark.pipelines.mark_release.pipeline import mark_release

        return server.submit(submission.name, mark_release, lambda: mark_arguments(submission))
    from medmark.pipelines.update_release.pipeline import update_release

    return server.submit(submission.name, update_release, lambda: update_arguments(submission, evidence_store))


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


def update_arguments(submission: Submission, evidence_store: Store) -> dict:
    """Arguments of update_release."""
    from medmark.pipelines.update_release.run import CHECK_SEED, next_version

    options = dict(submission.parameters)
    version = options.pop("version", None) or next_version(submission.release_version)
    evidence = evidence_store.read(parse(submission.evidence) / "evidence.json", MAX_MANIFEST_BYTES)
    try:
        seed = json.loads(evidence)["seed"]
        if not isinstance(seed, int):
            raise ValueError("no seed")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MedmarkError(f"no readable evidence: {submission.evidence}; publish it again") from error
    return {
        "source": submission.drop,
        "source_state": submission.drop_listing,
        "drop_options": options,
        "previous_uri": submission.release,
        "evidence_uri": submission.evidence,
        "keep_uri": submission.keep,
        "previous_digest": submission.release_digest,
        "version": version,
        "seed": (seed + CHECK_SEED) % 2**48,
    }
