"""A step that fails says why: in its log, where Kubernetes shows it, and, without names, in MLflow."""

import json
import os
import sys

import pytest
import yaml
from kfp import dsl
from medmark.components.base import termination
from medmark.components.base.errors import MedmarkError
from medmark.components.base.image import IMAGE
from medmark.components.tracking.failures import own_words
from medmark.pipelines import run_step
from medmark.pipelines.compile import compile_components, compile_pipeline, read_images

REASON = "no such file: /drops/Lindqvist Annika 1961.png; correct the path or remove the row that names it"


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def refuse(reason: str) -> None:
    from medmark.components.base.errors import MedmarkError

    raise MedmarkError(reason)


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def elsewhere() -> None:
    pass


@dsl.pipeline(name="fails")
def fails(reason: str):
    refuse(reason=reason)
    elsewhere()


@pytest.fixture
def in_a_pod(tmp_path, monkeypatch):
    """Runs the compiled step as its pod does; gives what Kubernetes then has to show."""
    compile_pipeline(fails, tmp_path / "fails.yaml", read_images(unpinned=True))
    executors = next(yaml.safe_load_all((tmp_path / "fails.yaml").read_text()))["deploymentSpec"]["executors"]
    container = executors["exec-refuse"]["container"]
    assert " python3 -m medmark.pipelines.run_step kfp.dsl.executor_main " in container["command"][2]
    assert " python3 -m kfp.dsl.executor_main " in executors["exec-elsewhere"]["container"]["command"][2]
    (tmp_path / "step.py").write_text(container["command"][3])
    shown = tmp_path / "termination-log"
    shown.write_text("what was there before, and longer than the reason " * 9)
    monkeypatch.setattr(termination, "LOG", str(shown))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)

    def run(reason: str) -> str:
        given = json.dumps(
            {"inputs": {"parameterValues": {"reason": reason}}, "outputs": {"outputFile": str(tmp_path)}}
        )
        given = [part if part != "{{$}}" else given for part in container["args"]]
        monkeypatch.setattr(
            sys,
            "argv",
            ["run_step", "kfp.dsl.executor_main", "--component_module_path", str(tmp_path / "step.py"), *given],
        )
        with pytest.raises(MedmarkError):
            run_step.main()
        return shown.read_text()

    return run


def test_the_reason_is_what_kubernetes_shows(in_a_pod):
    assert in_a_pod(REASON) == REASON
    assert in_a_pod("ü" * 4096) == "ü" * 2000  # one line, as long as the rest of medmark shows


def test_outside_a_pod_nothing_is_written(in_a_pod, tmp_path):
    os.remove(tmp_path / "termination-log")
    with pytest.raises(FileNotFoundError):
        in_a_pod(REASON)


def test_mlflow_says_why_in_the_steps_run_and_in_the_pipelines(in_a_pod, tmp_path, monkeypatch):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    parent = client.create_run("0").info.run_id
    nested = client.create_run("0", tags={"mlflow.parentRunId": parent}).info.run_id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_RUN_ID", nested)
    in_a_pod(REASON)
    for run in (parent, nested):
        tags = client.get_run(run).data.tags
        said = "no such file: ...; correct the path or remove the row that names it"
        assert (tags["medmark.error"], tags["medmark.failed_step"]) == (said, "refuse")
        assert client.get_run(run).info.status == "RUNNING"  # it is ended where it was opened


def test_an_mlflow_that_is_away_hides_nothing(in_a_pod, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    assert in_a_pod(REASON) == REASON
    assert "MLflow was not told why this step failed" in capfd.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        "Lindqvist",
        "lindqvist",
        "LINDQVIST^ANNIKA",
        "/data/images/index.png",
        "images/lindqvist",
        "mrn8812",
        "19610203",
        "muhammad",
    ],
)
def test_no_name_leaves_for_mlflow(name):
    for reason in (f"no such file: {name}; remove it", f"image {name} is empty", f"unknown class: '{name} image'"):
        assert name not in own_words(reason) and "..." in own_words(reason)
    assert own_words(f"image {name} is empty") == "image ... is empty"


def test_components_in_files_say_why_too(tmp_path):
    for file in compile_components(tmp_path, read_images(unpinned=True)):
        assert "medmark.pipelines.run_step " in file.read_text(), file


def test_the_command_leaves_its_line_where_argo_shows_it(medmark, tmp_path, monkeypatch):
    (tmp_path / "termination-log").touch()
    monkeypatch.setattr(termination, "LOG", str(tmp_path / "termination-log"))
    code, _, err = medmark("inspect", tmp_path / "nothing")
    assert code == 1 and err == f"medmark: {(tmp_path / 'termination-log').read_text()}\n"
