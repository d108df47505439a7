"""What MLflow holds after a pipeline, on a real MLflow with SQLite, and what happens when it is away."""

import json
import os
import shutil
import socket
import stat
import time
from pathlib import Path

import mlflow
import pytest
from medmark.components.base.errors import MedmarkError
from medmark.components.tracking import unlogged
from medmark.components.tracking.connection import QUIET
from medmark.components.tracking.runs import Tracked, log_pipeline, sync
from medmark.pipelines.commands.track import sync_command

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
        "source": "release",
        "counts": {"train": {"normal": 5, "pneumonia": 6}},
    }
    pipeline = Tracked("mark-release", {"profile": "smoke"}, {"wsr": 0.97, "lpips": None}, dataset=dataset)
    steps = [
        Tracked(
            "ingest", {"images": 11}, {"seconds": 2.5}, dataset=dataset, tags={"medmark.output.clean": "sha256:ab"}
        ),
        Tracked(
            "marked_models", curves={"loss": [(0, 1.0), (1, 0.5), (2, float("nan"))]}, figures={"p.svg": b"<svg/>"}
        ),
    ]
    return pipeline, steps


def run_sync(*folders: Path) -> None:
    sync_command(list(folders))


def runs_of(folder) -> list:
    return mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").search_runs(["1"])


def runs(folder) -> tuple[mlflow.MlflowClient, dict]:
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return client, {run.info.run_name: run for run in client.search_runs(experiments)}


def test_parent_and_a_nested_run_a_step(tmp_path):
    assert log_pipeline(tmp_path, *example())
    client, found = runs(tmp_path)
    assert set(found) == {"mark-release", "ingest", "marked_models"}
    parent = found["mark-release"]
    assert "mlflow.parentRunId" not in parent.data.tags
    for step in ("ingest", "marked_models"):
        assert found[step].data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert found[step].info.experiment_id == parent.info.experiment_id
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert not (tmp_path / "unlogged").exists()


def test_parameters_metrics_and_curves(folder):
    log_pipeline(folder, *example())
    client, found = runs(folder)
    assert found["mark-release"].data.params == {"profile": "smoke"}
    assert found["mark-release"].data.metrics == {"wsr": 0.97}  # None is left out
    history = client.get_metric_history(found["marked_models"].info.run_id, "loss")
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
        assert json.loads(given.dataset.source) == {"uri": "release"}
        assert json.loads(given.dataset.profile) == {"train": {"normal": 5, "pneumonia": 6}}
        assert mlflow.data.get_source(given).to_dict() == {"uri": "release"}
        assert found[name].data.tags["release_digest"] == DIGEST
    assert not found["marked_models"].inputs.dataset_inputs


def test_figures_and_files_lie_in_the_folder(folder):
    pipeline, steps = example()
    (folder / "verdict.json").write_text("{}")
    pipeline.files.append(folder / "verdict.json")
    log_pipeline(folder, pipeline, steps)
    client, found = runs(folder)
    assert [f.path for f in client.list_artifacts(found["mark-release"].info.run_id)] == ["verdict.json"]
    assert [f.path for f in client.list_artifacts(found["marked_models"].info.run_id, "figures")] == ["figures/p.svg"]
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
    assert set(found) == {"opened by kubeflow", "ingest", "marked_models"}
    assert found["opened by kubeflow"].data.metrics == {"wsr": 0.97}
    assert found["opened by kubeflow"].info.status == "RUNNING"  # KFP ends it
    for step in ("ingest", "marked_models"):
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
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert str(tmp_path / "unlogged") in line and "medmark track sync" in line
    (kept,) = (tmp_path / "unlogged").iterdir()
    content = json.loads((kept / "run.json").read_text())
    assert [run["name"] for run in content["runs"]] == ["mark-release", "ingest", "marked_models"]
    assert content["runs"][0]["metrics"] == {"wsr": 0.97}
    assert (kept / "002" / "figures" / "p.svg").read_bytes() == b"<svg/>"
    assert stat.S_IMODE((tmp_path / "unlogged").stat().st_mode) == 0o700


def test_what_mlflow_refuses_is_kept(folder, capsys):
    assert not log_pipeline(folder, Tracked("p", {"a name with\nbreak": 1}), [])
    assert "unlogged" in capsys.readouterr().err
    (kept,) = (folder / "unlogged").iterdir()
    assert json.loads((kept / "run.json").read_text())["runs"][0]["parameters"] == {"a name with\nbreak": "1"}


def test_nothing_fails_where_nothing_can_be_written(tmp_path, capsys):
    (tmp_path / "unlogged").write_text("a file where the folder should be")
    assert not log_pipeline(tmp_path, *example())
    assert "could not be kept" in capsys.readouterr().err


def test_a_password_in_the_address_is_not_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://owner:hunter2@127.0.0.1:9")
    assert not log_pipeline(tmp_path, *example())
    with pytest.raises(MedmarkError) as caught:
        sync([tmp_path], [])
    assert "hunter2" not in capsys.readouterr().err + str(caught.value)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """What a pipeline left whose MLflow was away."""
    (tmp_path / "file.json").write_text("{}")
    pipeline, steps = example()
    pipeline.files.append(tmp_path / "file.json")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert not log_pipeline(tmp_path / "out", pipeline, steps)
    (path,) = (tmp_path / "out" / "unlogged").iterdir()
    return path


@pytest.fixture
def target(tmp_path_factory, empty_database):
    """An MLflow to send to, which is not that of the pipeline's folder."""
    place = tmp_path_factory.mktemp("target")
    shutil.copyfile(empty_database, place / "mlflow.db")
    uri = f"sqlite:///{place / 'mlflow.db'}"
    mlflow.MlflowClient(uri).create_experiment("medmark", artifact_location=(place / "artifacts").as_uri())
    return place


def test_sync_sends_everything_once_with_its_times(kept, target, monkeypatch, capsys):
    made = json.loads((kept / "run.json").read_text())["time"]
    time.sleep(0.01)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{target / 'mlflow.db'}")
    run_sync(kept.parents[1])
    assert capsys.readouterr().out == f"sent: {kept.parents[1]}\n"
    assert not kept.parent.exists()
    client, found = runs(target)
    assert len(client.search_runs(["1"])) == 3
    assert {run.info.end_time for run in found.values()} == {made}
    assert found["ingest"].info.start_time == made - 2500
    assert found["marked_models"].info.start_time == made
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert found["mark-release"].data.metrics == {"wsr": 0.97}
    assert found["ingest"].data.params == {"images": "11"}
    assert found["ingest"].data.tags["medmark.output.clean"] == "sha256:ab"
    assert found["ingest"].data.tags["mlflow.parentRunId"] == found["mark-release"].info.run_id
    history = client.get_metric_history(found["marked_models"].info.run_id, "loss")
    assert [(m.step, m.timestamp) for m in history] == [(0, made), (1, made), (2, made)]
    assert [f.path for f in client.list_artifacts(found["mark-release"].info.run_id)] == ["file.json"]
    run_sync(kept.parents[1])
    assert capsys.readouterr().out == "nothing to send\n"
    assert len(client.search_runs(["1"])) == 3


def test_a_copy_of_what_was_sent_is_not_sent_again(kept, target, monkeypatch, tmp_path):
    shutil.copytree(kept.parents[1], tmp_path / "copy")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{target / 'mlflow.db'}")
    run_sync(tmp_path)  # finds both
    assert not list(tmp_path.rglob("run.json"))
    assert len(runs_of(target)) == 3


def test_sync_needs_a_server_and_a_folder(tmp_path, monkeypatch):
    with pytest.raises(MedmarkError, match="set MLFLOW_TRACKING_URI"):
        sync([tmp_path], [])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(MedmarkError, match="no such folder"):
        sync([tmp_path / "absent"], [])


@pytest.mark.parametrize("what", ["run.json", "002/figures/p.svg", "more", "link", "gone"])
def test_what_was_changed_is_not_sent(kept, target, monkeypatch, what):
    if what == "gone":
        (kept / "000" / "file.json").unlink()
    elif what == "link":
        (kept / "link").symlink_to("/etc/hostname")
    else:
        with open(kept / what, "ab") as stream:
            stream.write(b" ")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{target / 'mlflow.db'}")
    with pytest.raises(MedmarkError, match="did not take 1 of 1 .*damaged"):
        sync([kept.parents[1]], [])
    assert kept.is_dir() and not runs_of(target)


def test_two_at_once_do_not_send_twice(kept, target, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{target / 'mlflow.db'}")
    with unlogged.held(kept) as there, pytest.raises(MedmarkError, match="another process is sending"):
        assert there
        sync([kept.parents[1]], [])
    run_sync(kept.parents[1])
    assert len(runs_of(target)) == 3


def test_the_rest_of_an_interrupted_removal_is_neither_sent_nor_kept(kept, target, monkeypatch):
    rest = kept.with_name("0" * 64)
    shutil.copytree(kept / "002", rest / "002")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{target / 'mlflow.db'}")
    run_sync(kept.parents[1])
    assert not kept.parent.exists()


def test_a_run_that_was_given_is_added_to_later_and_not_ended(folder, target, monkeypatch):
    uri = f"sqlite:///{target / 'mlflow.db'}"
    client = mlflow.MlflowClient(uri)
    given = client.create_run("1", run_name="opened by kubeflow").info.run_id
    client.log_param(given, "profile", "as kubeflow says it")
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert not log_pipeline(folder, *example())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.delenv("MLFLOW_RUN_ID")
    run_sync(folder)
    _, found = runs(target)
    assert set(found) == {"opened by kubeflow", "ingest", "marked_models"}
    run = found["opened by kubeflow"]
    assert (run.info.status, run.info.end_time, run.data.metrics["wsr"]) == ("RUNNING", None, 0.97)
    assert run.data.params == {"profile": "as kubeflow says it"}
    assert {found[step].info.status for step in ("ingest", "marked_models")} == {"FINISHED"}


def test_a_run_that_was_given_by_another_server_is_named(folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    assert log_pipeline(folder, *example())
    assert runs(folder)[1]["mark-release"].data.tags["medmark.given_run"] == "0" * 32


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
