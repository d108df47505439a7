"""A real MLflow server that goes away: nothing is lost, and nothing is there twice."""

import http.client
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import mlflow
import pytest
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.suspects.onnx_model import OnnxModel
from medmark.components.tracking.connection import QUIET
from medmark.components.tracking.registry import Model, promote
from medmark.components.tracking.runs import Tracked, log_pipeline, sync

pytestmark = pytest.mark.timeout(240)
POINTS = [(step, step / 7) for step in range(1500)]  # more than one request takes


class Server:
    """``mlflow server`` on loopback, with SQLite and a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{self.address}/health", timeout=2).close()
                return
            except OSError:
                assert self.process.poll() is None and time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.1)

    def kill(self) -> None:
        """kill -9 for it and its workers."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)


class Front:
    """What clients talk to: passes requests on until it is told to stop.

    Attributes:
        left: requests that are still passed on.
        answers: whether the last of them is answered; if not, it was carried out and nobody knows.
        at_the_end: called when none is left.
    """

    def __init__(self, server: Server):
        self.left, self.answers, self.at_the_end, self.passed = 10**9, True, lambda: None, 0
        front, lock = self, threading.Lock()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with lock:
                    front.left -= 1
                    left = front.left
                if left < 0 and (left < -1 or front.answers):
                    self.close_connection = True
                    return
                connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
                try:
                    connection.request(self.command, self.path, body, dict(self.headers))
                    answer = connection.getresponse()
                    data = answer.read()
                except (OSError, http.client.HTTPException):
                    self.close_connection = True
                    return
                finally:
                    connection.close()
                    if left == 0:
                        front.at_the_end()
                if left < 0:
                    self.close_connection = True
                    return
                front.passed += 1
                self.send_response(answer.status)
                for name in ("Content-Type", "Content-Disposition"):
                    if answer.getheader(name):
                        self.send_header(name, answer.getheader(name))
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_one

            def log_message(self, *arguments) -> None:
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, client_address) -> None:
                pass  # a client that goes away

        self.httpd = Quiet(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.httpd.server_port}"
        threading.Thread(target=self.httpd.serve_forever, daemon=True).start()

    def allow(self, requests: int, *, answers: bool = True) -> None:
        self.left, self.answers, self.passed = requests, answers, 0

    def close(self) -> None:
        self.httpd.shutdown()
        self.httpd.server_close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("mlflow"))
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def front(server, monkeypatch):
    for name in ("MLFLOW_RUN_ID", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    front = Front(server)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", front.address)
    yield front
    front.close()


def pipeline(name: str) -> tuple[Tracked, list[Tracked]]:
    dataset = {"name": "phantoms", "digest": "0123456789abcdef" * 4, "source": "release", "counts": {"train": {"a": 5}}}
    parent = Tracked(name, {"profile": "smoke"}, {"wsr": 0.97, "seconds": 9.0}, dataset=dataset)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    steps = [
        Tracked("ingest", {"images": 5}, dataset=dataset, tags={"medmark.output.clean": "sha256:ab"}),
        Tracked(
            "surrogates",
            curves={"loss": POINTS},
            figures={"training.svg": b"<svg/>"},
            models=[Model(f"{name}-surrogate", network, (1, 4, 4), "image", "logits", "f" * 64)],
        ),
    ]
    return parent, steps


def check_exactly_once(server: Server, folder: Path, name: str, made: int | None = None) -> None:
    """Everything of one pipeline is on the server, once, and nothing is left in its folder."""
    assert not (folder / "unlogged").exists()
    client = mlflow.MlflowClient(server.address)
    everything = client.search_runs([client.get_experiment_by_name("medmark").experiment_id], max_results=1000)
    (parent,) = [run for run in everything if run.info.run_name == name]
    children = [run for run in everything if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(run.info.run_name for run in children) == ["ingest", "surrogates"]
    ingest, surrogates = sorted(children, key=lambda run: run.info.run_name)
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    assert (parent.data.params, parent.data.metrics["wsr"]) == ({"profile": "smoke"}, 0.97)
    assert (ingest.data.params, ingest.data.tags["medmark.output.clean"]) == ({"images": "5"}, "sha256:ab")
    assert [len(run.inputs.dataset_inputs) for run in (parent, ingest, surrogates)] == [1, 1, 0]
    history = client.get_metric_history(surrogates.info.run_id, "loss")
    assert sorted((point.step, point.value) for point in history) == POINTS
    assert [file.path for file in client.list_artifacts(surrogates.info.run_id, "figures")] == ["figures/training.svg"]
    (version,) = client.search_model_versions(f"name = '{name}-surrogate'")
    assert str(client.get_model_version_by_alias(version.name, "candidate").version) == str(version.version)
    if made:
        assert {run.info.end_time for run in (parent, *children)} == {made}
        assert parent.info.start_time == made - 9000
        assert {point.timestamp for point in history} == {made}


def test_logged_at_once(server, front, tmp_path):
    assert log_pipeline(tmp_path, *pipeline("at-once"))
    check_exactly_once(server, tmp_path, "at-once")
    model = mlflow.artifacts.download_artifacts(
        artifact_uri="models:/at-once-surrogate@candidate", dst_path=str(tmp_path / "got")
    )
    assert OnnxModel(Path(model) / "model.onnx").inputs == {"image": ((None, 1, 4, 4), "float32")}
    assert promote("f" * 64, tmp_path) == ["at-once-surrogate 1"]


@pytest.mark.parametrize("answers", [True, False], ids=["refused", "carried out, no answer"])
def test_cut_again_and_again_two_requests_later_each_time(server, front, tmp_path, answers):
    name = f"cut-{answers}"
    front.allow(0)
    assert not log_pipeline(tmp_path, *pipeline(name))
    (kept,) = (tmp_path / "unlogged").iterdir()
    made = json.loads((kept / "run.json").read_text())["time"]
    sent, allowed = [], 0 if answers else 1
    while not sent:
        front.allow(allowed, answers=answers)
        try:
            sync([tmp_path], sent)
        except MedmarkError as error:
            assert "did not take 1 of 1" in str(error)
            assert kept.is_dir()
        allowed += 2
        assert allowed < 200
    assert allowed > 12
    check_exactly_once(server, tmp_path, name, made)
    front.allow(10**9)
    sync([tmp_path], sent)
    assert len(sent) == 1
    check_exactly_once(server, tmp_path, name, made)


def test_a_request_that_mlflow_repeats_makes_no_second_run(server, front, tmp_path, monkeypatch):
    """MLflow's client sends a request again if the answer is lost: the server may do it twice."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    passing = front.httpd.RequestHandlerClass.handle_one
    lost = set()

    def lose_first_answers(handler) -> None:
        if handler.path.endswith(("runs/create", "model-versions/create")) and handler.path not in lost:
            lost.add(handler.path)
            handler.wfile = open(os.devnull, "wb")
            passing(handler)
            handler.close_connection = True
        else:
            passing(handler)

    monkeypatch.setattr(front.httpd.RequestHandlerClass, "do_POST", lose_first_answers)
    assert log_pipeline(tmp_path, *pipeline("repeated"))
    assert len(lost) == 2
    check_exactly_once(server, tmp_path, "repeated")


def test_killed_in_the_middle_and_started_again(server, front, tmp_path, capsys):
    front.allow(12)
    front.at_the_end = server.kill
    assert not log_pipeline(tmp_path, *pipeline("killed"))
    assert "medmark track sync" in capsys.readouterr().err
    front.at_the_end = lambda: None
    front.allow(10**9)
    with pytest.raises(MedmarkError, match="did not take 1 of 1"):
        sync([tmp_path], [])
    server.start()
    sent = []
    sync([tmp_path], sent)
    assert len(sent) == 1
    check_exactly_once(server, tmp_path, "killed")
    sync([tmp_path], sent)
    assert len(sent) == 1


def test_a_run_that_kubeflow_opened_stays_its_own(server, front, tmp_path, monkeypatch):
    client = mlflow.MlflowClient(server.address)
    given = client.create_run(client.create_experiment("of kubeflow"), run_name="kubeflow's").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    front.allow(9)
    assert not log_pipeline(tmp_path, *pipeline("attached"))
    front.allow(10**9)
    sync([tmp_path], [])
    run = client.get_run(given)
    assert (run.info.status, run.info.end_time, run.data.metrics["wsr"]) == ("RUNNING", None, 0.97)
    children = [
        child
        for child in client.search_runs([run.info.experiment_id])
        if child.data.tags.get("mlflow.parentRunId") == given
    ]
    assert sorted((child.info.run_name, child.info.status) for child in children) == [
        ("ingest", "FINISHED"),
        ("surrogates", "FINISHED"),
    ]
