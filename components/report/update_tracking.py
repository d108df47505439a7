"""Log a run of update_release to MLflow."""

from __future__ import annotations

from pathlib import Path

from medmark.components.dataset.release import Release
from medmark.components.lineage.events import read_record, read_steps
from medmark.components.report.mark_tracking import SEED, dataset_of, step_tags
from medmark.components.tracking.runs import Tracked, log_pipeline, run_tags

# name of the step: what it made
STEPS = {"read drop": "drop", "mark drop": "release", "check": "check"}


def track_update(out: Path, parts: dict[str, Path], verdict: dict, *, kfp_run: str = "") -> None:
    """Logs the run to MLflow, with a nested run for each step, but neither seeds nor images nor names of the source.

    Args:
        out: gets MLflow's files, or what MLflow does not take.
        parts: folder of each of the pipeline's outputs; of ``record`` the file.
        verdict: content of ``verdict.json``.
        kfp_run: see :func:`medmark.components.tracking.runs.run_tags`.
    """
    release = Release(parts["release"])
    events = read_steps(parts["evidence"])["events"]
    record = read_record(parts["record"])
    public = record["steps"]
    steps = [
        Tracked(name, tags=step_tags(name, parts.get(made, out), events, public) | SEED) for name, made in STEPS.items()
    ]
    change, model = verdict["change"], verdict["model"]
    steps[1].dataset = dataset_of(release, "release")
    counted = ("added", "replaced", "withdrawn", "withheld", "marked", "decoys", "set_aside")
    steps[1].metrics = {name: change[name] for name in counted} | change.get("quality", {})
    numbers = ("wsr", "clean_rate", "delta_p", "test_accuracy", "queries", "trained_on")
    steps[2].metrics = {name: model[name] for name in numbers}
    parameters = {
        "drop": record["drop"]["digest"],
        "version": release.version,
        "verdict": verdict["verdict"],
        "parent": release.parent,
    }
    pipeline = Tracked(
        "update-release", parameters, {"seconds": verdict["seconds"]["total"]}, tags=run_tags(kfp_run) | SEED
    )
    pipeline.metrics |= {name: steps[2].metrics[name] for name in ("wsr", "delta_p")}
    pipeline.dataset = dataset_of(release, "release")
    log_pipeline(out, pipeline, steps)
