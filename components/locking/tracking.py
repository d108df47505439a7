"""Log a run of lock_release to MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medmark.components.dataset.release import Release
from medmark.components.locking.summary import metrics
from medmark.components.report.mark_tracking import add_training, dataset_of
from medmark.components.tracking.runs import Tracked, log_pipeline, run_tags


def track_locking(
    out: Path, parts: dict[str, Path], verdict: dict[str, Any], parameters: dict[str, Any], *, kfp_run: str = ""
) -> None:
    """Logs the run to MLflow, with a nested run for each folder of trained classifiers.

    The server may be shared: neither keys, places of logos nor images go there.

    Args:
        out: gets MLflow's files, or what MLflow does not take.
        parts: ``release``, ``models`` and ``unseen``: folders.
        verdict: content of ``verdict.json``.
        parameters: of the run, without seeds.
        kfp_run: see :func:`medmark.components.tracking.runs.run_tags`.
    """
    release = Release(parts["release"])
    steps = []
    for name in ("models", "unseen"):
        step = Tracked(name)
        add_training(step, parts[name])
        steps.append(step)
    pipeline = Tracked(
        "lock-release", {**parameters, "verdict": verdict["verdict"]}, dict(metrics(verdict)), tags=run_tags(kfp_run)
    )
    pipeline.metrics["seconds"] = sum(seconds for name, seconds in verdict["seconds"].items() if name != "total")
    pipeline.tags["medmark.release_digest"] = release.digest
    pipeline.dataset = dataset_of(release, parameters["data"])
    log_pipeline(out, pipeline, steps)
