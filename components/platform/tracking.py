"""MLflow: what a pipeline leaves there, and what happens when MLflow is away.

If ``MLFLOW_RUN_ID`` is set (KFP's MLflow plugin sets it), that run becomes the parent. Else ``MLFLOW_TRACKING_URI``
decides where runs go, and without it a SQLite file in the pipeline's own folder. Tracking never fails a pipeline: what
could not be logged is kept in ``unlogged.jsonl`` and one line says so. MLflow's own telemetry is switched off: a run on
medical images tells nobody that it happened.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

EXPERIMENT = "medmark"
METRICS_PER_REQUEST = 1000  # MLflow's limit
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # a server that is away would otherwise be retried for minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",  # seconds
}


@dataclass
class Tracked:
    """What one run holds: the pipeline itself, or one of its steps.

    Attributes:
        name: of the run.
        parameters: logged as text, cut at 500 characters.
        metrics: numbers; None is left out.
        curves: metric name to (step, value) pairs.
        figures: file name to SVG, kept under ``figures/`` of the run's artifacts.
        dataset: None, or ``name``, ``digest``, ``source`` (a path) and ``counts`` (split to class to images).
        files: paths to keep as artifacts.
    """

    name: str
    parameters: dict = field(default_factory=dict)
    metrics: dict = field(default_factory=dict)
    curves: dict = field(default_factory=dict)
    figures: dict[str, bytes] = field(default_factory=dict)
    dataset: dict | None = None
    files: list = field(default_factory=list)


def log_pipeline(folder: str | Path, pipeline: Tracked, steps: list[Tracked]) -> bool:
    """Logs a parent run and a nested run for each step.

    Args:
        folder: where ``mlflow.db``, ``mlartifacts/`` or ``unlogged.jsonl`` lie.
        pipeline: the parent.
        steps: in order.

    Returns:
        Whether MLflow took it. If not, a line on standard error says why and ``unlogged.jsonl`` has the content.
    """
    folder = Path(folder)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        with _environment_kept():
            _log(folder, pipeline, steps)
        return True
    except Exception as error:  # whatever MLflow or its server raises must not end the pipeline
        reason = " ".join(str(error).split())[:160]
        kept = folder / "unlogged.jsonl"
        print(f"MLflow did not take the run ({reason}); it is kept in {kept}", file=sys.stderr)
        with open(kept, "a", encoding="utf-8") as stream:
            for run in (pipeline, *steps):
                stream.write(json.dumps({**asdict(run), "figures": list(run.figures)}, default=str) + "\n")
        return False


def _log(folder: Path, pipeline: Tracked, steps: list[Tracked]) -> None:
    import mlflow

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # announces every table it makes
    if os.environ.get("MLFLOW_TRACKING_URI"):
        mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    else:
        mlflow.set_tracking_uri(f"sqlite:///{(folder / 'mlflow.db').resolve()}")
        if mlflow.get_experiment_by_name(EXPERIMENT) is None:
            mlflow.create_experiment(EXPERIMENT, artifact_location=(folder / "mlartifacts").resolve().as_uri())
    given = os.environ.pop("MLFLOW_RUN_ID", None)  # start_run would take it for every nested run too
    if given:
        parent = mlflow.start_run(run_id=given)
    else:
        mlflow.set_experiment(EXPERIMENT)
        parent = mlflow.start_run(run_name=pipeline.name)
    with parent:
        _log_one(pipeline)
        for step in steps:
            with mlflow.start_run(run_name=step.name, nested=True, experiment_id=parent.info.experiment_id):
                _log_one(step)


@contextmanager
def _environment_kept() -> Iterator[None]:
    """MLflow writes server and experiment into the environment, where the next run would take them for the user's."""
    before = {name: os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID")}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _log_one(run: Tracked) -> None:
    import mlflow
    import pandas as pd
    from mlflow.entities import Metric

    mlflow.log_params({key: str(value)[:500] for key, value in run.parameters.items()})
    now = int(time.time() * 1000)
    metrics = [Metric(key, float(value), now, 0) for key, value in run.metrics.items() if value is not None]
    metrics += [Metric(key, float(v), now, int(at)) for key, points in run.curves.items() for at, v in points]
    client, run_id = mlflow.MlflowClient(), mlflow.active_run().info.run_id
    for start in range(0, len(metrics), METRICS_PER_REQUEST):
        client.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_REQUEST])
    if run.dataset:
        given = run.dataset
        # MLflow keeps 36 characters of a digest; the tag has it whole
        counts = pd.DataFrame(given["counts"], dtype="float64")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow finds its own local source class twice and says so
            dataset = mlflow.data.from_pandas(
                counts, source=str(given["source"]), name=given["name"], digest=given["digest"][:36]
            )
        mlflow.log_input(dataset, context=run.name)
        mlflow.set_tag("release_digest", given["digest"])
    for name, svg in run.figures.items():
        mlflow.log_text(svg.decode(), f"figures/{name}")
    for path in run.files:
        mlflow.log_artifact(str(path))
