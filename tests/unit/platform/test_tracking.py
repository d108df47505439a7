"""What MLflow holds after a pipeline, on a real MLflow with SQLite, and what happens when it is away."""

import json
import os
import shutil
import socket
import time

import mlflow
import pytest
from medmark.components.platform.tracking import QUIET, Tracked, log_pipeline

DIGEST = "0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in QUIET.items():  # tracking sets them for the process: put back afterwards
        monkeypatch.setenv(name, value)
    yield
    while mlflow.active_run():
        mlflow.end_run()


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    """MLflow takes seconds to make its tables; once is enough."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def folder(tmp_path, empty_database):
    """A pipeline's folder, MLflow's tables in place."""
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    return tmp_path


def example() -> tuple[Tracked, list[Tracked]]:
    dataset = {
        "name": "phantoms",
        "digest": DIGEST,
        "source": "/somewhere/release",
        "counts": {"train": {"normal": 5, "pneumonia": 6}},
    }
    pipeline = Tracked("mark-release", {"profile": "smoke"}, {"wsr": 0.97, "lpips": None}, dataset=dataset)
    steps = [
        Tracked("ingest", {"seed": 3}, dataset=dataset),
        Tracked("victims", curves={"loss": [(0, 1.0), (1, 0.5), (2, float("nan"))]}, figures={"p.svg": b"<svg/>"}),
    ]
    return pipeline, steps


def runs(folder) -> tuple[mlflow.MlflowClient, dict]:
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return client, {run.info.run_name: run for run in client.search_runs(experiments)}


def test_parent_and_a_nested_run_a_step(tmp_path):
    assert log_pipeline(tmp_path, *example())
    client, found = runs(tmp_path)
    assert set(found) == {"mark-release", "ingest", "victims"}
    parent = found["mark-release"]
    assert "mlflow.parentRunId" not in parent.data.tags
    for step in ("ingest", "victims"):
        assert found[step].data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert found[step].info.experiment_id == parent.info.experiment_id
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert not (tmp_path / "unlogged.jsonl").exists()


def test_parameters_metrics_and_curves(folder):
    log_pipeline(folder, *example())
    client, found = runs(folder)
    assert found["mark-release"].data.params == {"profile": "smoke"}
    assert found["mark-release"].data.metrics == {"wsr": 0.97}  # None is left out
    history = client.get_metric_history(found["victims"].info.run_id, "loss")
    assert [(m.step, m.value) for m in history[:2]] == [(0, 1.0), (1, 0.5)]
    assert [m.step for m in history] == [0, 1, 2]


def test_more_metrics_than_one_request_takes(folder):
    points = [(step, step / 7) for step in range(1203)]
    assert log_pipeline(folder, Tracked("p"), [Tracked("long", curves={"loss": points})])
    client, found = runs(folder)
    history = client.get_metric_history(found["long"].info.run_id, "loss")
    assert sorted((m.step, m.value) for m in history) == points


def test_dataset_inputs_name_the_release(folder):
    log_pipeline(folder, *example())
    _, found = runs(folder)
    for name in ("mark-release", "ingest"):
        (given,) = found[name].inputs.dataset_inputs
        assert given.dataset.name == "phantoms"
        assert given.dataset.digest == DIGEST[:36]
        assert "/somewhere/release" in given.dataset.source
        assert found[name].data.tags["release_digest"] == DIGEST
    assert not found["victims"].inputs.dataset_inputs


def test_figures_and_files_lie_in_the_folder(folder):
    pipeline, steps = example()
    (folder / "verdict.json").write_text("{}")
    pipeline.files.append(folder / "verdict.json")
    log_pipeline(folder, pipeline, steps)
    client, found = runs(folder)
    assert [f.path for f in client.list_artifacts(found["mark-release"].info.run_id)] == ["verdict.json"]
    assert [f.path for f in client.list_artifacts(found["victims"].info.run_id, "figures")] == ["figures/p.svg"]
    assert [path.read_bytes() for path in (folder / "mlartifacts").rglob("p.svg")] == [b"<svg/>"]


def test_attaches_to_the_run_that_kubeflow_opened(folder, monkeypatch):
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("of kubeflow", artifact_location=(folder / "artifacts").as_uri())
    given = client.create_run(experiment, run_name="opened by kubeflow").info.run_id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    assert log_pipeline(folder, *example())
    _, found = runs(folder)
    assert set(found) == {"opened by kubeflow", "ingest", "victims"}
    assert found["opened by kubeflow"].data.metrics == {"wsr": 0.97}
    for step in ("ingest", "victims"):
        assert found[step].data.tags["mlflow.parentRunId"] == given
        assert found[step].info.experiment_id == experiment
    assert os.environ["MLFLOW_RUN_ID"] == given


def test_two_pipelines_share_one_database(folder):
    assert log_pipeline(folder, Tracked("first"), [])
    assert log_pipeline(folder, Tracked("second"), [])
    assert set(runs(folder)[1]) == {"first", "second"}


@pytest.mark.parametrize("server", ["refuses", "never answers"])
def test_a_server_that_is_away_costs_seconds_not_the_pipeline(tmp_path, monkeypatch, capsys, server):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if server == "never answers":
            listener.listen(16)
            monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{listener.getsockname()[1]}")
        started = time.monotonic()
        assert not log_pipeline(tmp_path, *example())
    assert time.monotonic() - started < 20
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    kept = [json.loads(line) for line in (tmp_path / "unlogged.jsonl").read_text().splitlines()]
    assert [run["name"] for run in kept] == ["mark-release", "ingest", "victims"]
    assert kept[0]["metrics"]["wsr"] == 0.97 and kept[2]["figures"] == ["p.svg"]


def test_what_mlflow_refuses_is_kept(folder, capsys):
    assert not log_pipeline(folder, Tracked("p", {"a name with\nbreak": 1}), [])
    assert "unlogged.jsonl" in capsys.readouterr().err
    assert json.loads((folder / "unlogged.jsonl").read_text())["name"] == "p"


def test_telemetry_is_off_and_retries_are_few_unless_the_user_says_otherwise(folder, monkeypatch):
    for name in QUIET:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    log_pipeline(folder, Tracked("p"), [])
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "30"


def test_a_run_leaves_no_trace_in_the_environment(folder, tmp_path_factory, empty_database):
    other = tmp_path_factory.mktemp("other")
    shutil.copyfile(empty_database, other / "mlflow.db")
    for place in (folder, other):
        assert log_pipeline(place, Tracked("pipeline"), [])
        assert not {"MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"} & set(os.environ)
        assert len(mlflow.MlflowClient(f"sqlite:///{place / 'mlflow.db'}").search_runs(["1"])) == 1
