"""MLflow: what a pipeline leaves there, and what happens when MLflow is away.

If ``MLFLOW_RUN_ID`` is set (KFP's MLflow plugin sets it), that run becomes the parent; it is added to, and not ended. Else ``MLFLOW_TRACKING_URI`` decides where runs go, and without it a SQLite file in the pipeline's own folder.

Tracking never fails a pipeline. Everything is written to ``unlogged/`` first and removed from there when MLflow has it;
``medmark track sync`` sends what is left. Each run carries a digest of its content in the tag ``medmark.content``, by which a
run that was sent half is found again and completed, and in ``medmark.logged`` once it is whole. A server may be shared:
callers give neither seeds and keys, nor marked images, nor paths of this machine. MLflow's own telemetry is switched off: a
run on medical images tells nobody that it happened.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from medmark.components.base.errors import MedmarkError
from medmark.components.base.image import NOT_IN_AN_IMAGE, running_image
from medmark.components.base.private_files import private_files
from medmark.components.base.text import reason_of
from medmark.components.tracking import unlogged
from medmark.components.tracking.connection import quiet, tracking_uri
from medmark.components.tracking.unlogged import Kept

if TYPE_CHECKING:
    from medmark.components.tracking.registry import Model
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run

T = TypeVar("T")
EXPERIMENT = "medmark"
CONTENT, LOGGED = "medmark.content", "medmark.logged"
METRICS_PER_REQUEST, TEXTS_PER_REQUEST = 1000, 100  # MLflow's limits
DIGEST_CHARS = 36  # that MLflow keeps of a data set's digest


def run_tags(kfp_run: str = "") -> dict[str, str]:
    """Returns the tags of a pipeline's run: version of medmark, image without its registry, and id of the KFP run.

    Args:
        kfp_run: its id. Counts in a compiled step only: ``kfp.local`` makes one up.
    """
    image = running_image()
    tags = {"medmark.code_version": version("medmark"), "medmark.image": image.rpartition("/")[2]}
    return tags | ({"medmark.kfp_run": kfp_run} if kfp_run and image != NOT_IN_AN_IMAGE else {})


@dataclass
class Tracked:
    """What one run holds: the pipeline itself, or one of its steps.

    Attributes:
        name: of the run.
        parameters: logged as text, cut at 500 characters.
        metrics: numbers; None is left out. ``seconds`` also says how long before now the run began.
        curves: metric name to (step, value) pairs.
        figures: file name to SVG, kept under ``figures/`` of the run's artifacts.
        dataset: None, or ``name``, ``digest``, ``source`` (a name, not a path of this machine) and ``counts`` (split to
            class to images).
        files: paths to keep as artifacts.
        tags: cut at 5000 characters.
        models: networks to register.
    """

    name: str
    parameters: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float | None] = field(default_factory=dict)
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    figures: dict[str, bytes] = field(default_factory=dict)
    dataset: dict[str, Any] | None = None
    files: list[str | Path] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    models: list[Model] = field(default_factory=list)


def log_pipeline(folder: str | Path, pipeline: Tracked, steps: list[Tracked]) -> bool:
    """Logs a parent run and a nested run for each step.

    Args:
        folder: where ``mlflow.db``, ``mlartifacts/`` or ``unlogged/`` are, or are made.
        pipeline: the parent.
        steps: in order.

    Returns:
        Whether MLflow took it. If not, a line on standard error says why and ``unlogged/`` has the content.
    """
    folder, kept = Path(folder), None
    try:
        with private_files():
            kept = _keep(folder, [pipeline, *steps])
            with unlogged.held(kept.path):
                _send(kept, tracking_uri(folder), folder)
                unlogged.remove(kept.path)
        return True
    except Exception as error:  # whatever MLflow or its server raises must not end the pipeline
        rest = f"it is kept in {kept.path}; send it with 'medmark track sync'" if kept else "it could not be kept"
        print(f"MLflow did not take the run ({reason_of(error)}); {rest}", file=sys.stderr)
        return False


def sync(folders: list[Path], sent: list[Path]) -> None:
    """Sends what waits in some folders or below them to ``MLFLOW_TRACKING_URI``, with the times it had, and removes it.

    Args:
        folders: of pipelines, or folders above them.
        sent: gets what was sent.

    Raises:
        MedmarkError: no server is named, a folder is missing, or something could not be sent; the rest was.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise MedmarkError("no MLflow is named; set MLFLOW_TRACKING_URI to its address")
    for folder in folders:
        if not Path(folder).is_dir():
            raise MedmarkError(f"no such folder: {folder}; give the folder of a run")
    failures = []
    for path in unlogged.waiting(folders):
        try:
            with unlogged.held(path) as there:
                if there:
                    _send(unlogged.read(path), uri, path.parent.parent)
                    unlogged.remove(path)
                    sent.append(path)
        except Exception as error:  # whatever MLflow or its server raises; the others shall still be tried
            failures.append(f"{path}: {reason_of(error)}")
    if failures:
        raise MedmarkError(
            f"MLflow did not take {len(failures)} of {len(failures) + len(sent)} ({failures[0]}); see to it and sync again"
        )


def _keep(folder: Path, runs: list[Tracked]) -> Kept:
    """Writes runs to ``unlogged/``."""
    with unlogged.writing(folder) as staged:
        content = [_written(run, staged, number) for number, run in enumerate(runs)]
        return unlogged.finish(staged, content, int(time.time() * 1000), os.environ.get("MLFLOW_RUN_ID") or None)


def _written(run: Tracked, staged: Path, number: int) -> dict[str, Any]:
    """Writes a run's artifacts; gives the rest of it as JSON values."""
    tags, models, folder = dict(run.tags), [], unlogged.artifacts(staged, number)
    for name, svg in run.figures.items():
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        (folder / "figures" / name).write_bytes(svg)
    for path in run.files:
        folder.mkdir(exist_ok=True)
        shutil.copyfile(path, folder / Path(path).name)
    for model in run.models:
        from medmark.components.tracking.registry import write_model  # loads torch

        if model.private and os.environ.get("MLFLOW_TRACKING_URI"):
            tags["medmark.models"] = f"not registered on a server: {model.private}"
            continue
        place, where = f"models/{model.name}", staged / unlogged.PRIVATE if model.private else staged
        made = unlogged.artifacts(where, number) / place
        try:
            write_model(model, made)
        except Exception as error:  # whatever PyTorch's exporter raises: the run is worth more than the model
            shutil.rmtree(made, ignore_errors=True)
            tags["medmark.models"] = f"not registered: {reason_of(error)}"
            continue
        models.append(
            {
                "name": model.name,
                "folder": place,
                "release_digest": model.release_digest,
                "model_digest": model.model_digest,
                "private": model.private,
            }
        )
    return {
        "name": run.name,
        "parameters": {name: str(value)[:500] for name, value in run.parameters.items()},
        "metrics": {name: float(value) for name, value in run.metrics.items() if value is not None},
        "curves": {name: [(int(at), float(v)) for at, v in points] for name, points in run.curves.items()},
        "tags": {name: str(value)[:5000] for name, value in tags.items()},
        "dataset": run.dataset,
        "models": models,
    }


def _send(kept: Kept, uri: str, folder: Path) -> None:
    """Sends runs; what is there already is not sent again."""
    quiet()
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    own = not os.environ.get("MLFLOW_TRACKING_URI")
    if own:
        (folder / "mlartifacts").mkdir(mode=0o700, exist_ok=True)
    parent = _given(client, kept.given_run)
    if parent is not None:
        experiment = parent.info.experiment_id
    else:
        experiment = _experiment(client, folder if own else None)
        parent = _own(client, experiment, kept, 0, {"medmark.given_run": kept.given_run} if kept.given_run else {})
    nested = {"mlflow.parentRunId": parent.info.run_id}
    for number in range(1, len(kept.runs)):
        _complete(client, _own(client, experiment, kept, number, nested), kept, number, own)
    _complete(client, parent, kept, 0, own)


def _given(client: MlflowClient, run_id: str | None) -> Run | None:
    """The run that somebody else opened for us, if this MLflow has it."""
    from mlflow.exceptions import MlflowException

    if run_id is None:
        return None
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


def _experiment(client: MlflowClient, folder: Path | None) -> str:
    """Id of medmark's experiment. Where MLflow is a file in the pipeline's ``folder``, artifacts go beside it."""
    from mlflow.exceptions import MlflowException

    beside = (folder / "mlartifacts").resolve().as_uri() if folder else None
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        try:
            return client.create_experiment(EXPERIMENT, artifact_location=beside)
        except MlflowException as error:  # another process was faster
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(EXPERIMENT)
            if found is None:  # and deleted it
                raise
    return found.experiment_id


def _own(client: MlflowClient, experiment: str, kept: Kept, number: int, tags: dict[str, Any]) -> Run:
    """The run with this content, made if it is not there."""
    run, content = kept.runs[number], kept.digest(number)
    found = _with_content(client, experiment, content)
    if not found:
        began = kept.time - int(1000 * run["metrics"].get("seconds", 0))
        client.create_run(experiment, began, {CONTENT: content, **tags}, run_name=run["name"])
        found = _with_content(client, experiment, content)
    for extra in found[1:]:  # made by a request that was repeated because its answer was lost
        client.delete_run(extra.info.run_id)
    return found[0]


def _with_content(client: MlflowClient, experiment: str, content: str) -> list[Run]:
    found = client.search_runs([experiment], f"tags.`{CONTENT}` = '{content}'")
    return sorted(found, key=lambda run: run.info.run_id)


def _complete(client: MlflowClient, run: Run, kept: Kept, number: int, own: bool) -> None:
    """Sends a run's content, then says that it is whole. Whatever was sent before may be sent again without harm."""
    from mlflow.entities import Metric, Param, RunTag

    content, run_id, digest = kept.runs[number], run.info.run_id, kept.digest(number)
    if run.data.tags.get(LOGGED) == digest:
        return
    # a run that was given may have a parameter of this name already, and MLflow changes none
    params = [Param(name, value) for name, value in content["parameters"].items() if name not in run.data.params]
    tags = [RunTag(name, value) for name, value in content["tags"].items()]
    if content["dataset"]:
        tags.append(RunTag("release_digest", content["dataset"]["digest"]))
        client.log_inputs(run_id, [_dataset_input(content)])
    for some_params in _parts(params, TEXTS_PER_REQUEST):
        client.log_batch(run_id, params=some_params)
    for some_tags in _parts(tags, TEXTS_PER_REQUEST):
        client.log_batch(run_id, tags=some_tags)
    metrics = [Metric(name, value, kept.time, 0) for name, value in content["metrics"].items()]
    metrics += [Metric(name, v, kept.time, at) for name, points in content["curves"].items() for at, v in points]
    for some_metrics in _parts(metrics, METRICS_PER_REQUEST):  # MLflow keeps one of equal ones
        client.log_batch(run_id, metrics=some_metrics)
    for artifacts in (kept.artifacts(number), kept.private(number))[: 2 if own else 1]:
        if artifacts.is_dir():
            client.log_artifacts(run_id, str(artifacts))
    models = [model for model in content["models"] if own or not model["private"]]
    if models:
        from medmark.components.tracking.registry import register

        client.set_tag(run_id, "medmark.models", register(client, run_id, models, digest, kept.time))
    if number or run_id != kept.given_run:  # a run that was given is ended where it was opened
        client.set_terminated(run_id, "FINISHED", kept.time)
    client.set_tag(run_id, LOGGED, digest)  # last


def _dataset_input(content: dict[str, Any]) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    given = content["dataset"]
    # MLflow keeps 36 characters of a digest; the tag release_digest has it whole
    dataset = Dataset(
        given["name"],
        given["digest"][:DIGEST_CHARS],
        "local",
        json.dumps({"uri": str(given["source"])}),
        profile=json.dumps(given["counts"]),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", content["name"])])


def _parts(items: list[T], size: int) -> Iterator[list[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
