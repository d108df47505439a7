"""Starting and ending SeaweedFS and MLflow."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from medmark.components.base.errors import MedmarkError
from medmark.pipelines import services as module
from medmark.pipelines.services import EVIDENCE, RELEASES, down, status, up
from object_store import kill_server, processes_of, store_for


@pytest.fixture
def folder(tmp_path):
    """Where services may start, with a name as long as names get; none may be left."""
    folder = tmp_path / ("long " * 20) / "services"
    yield folder
    if (folder / "services.json").exists():
        down(folder)
    assert processes_of(folder) == []


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_both_services(folder, tmp_path):
    s3, mlflow = free_port(), free_port()
    services = up(folder, s3_port=s3, mlflow_port=mlflow)
    assert (services.s3, services.mlflow) == (f"http://127.0.0.1:{s3}", f"http://127.0.0.1:{mlflow}")
    assert {name: (s.running, s.answers) for name, s in status(folder).items()} == {
        "seaweedfs": (True, True),
        "mlflow": (True, True),
    }
    with pytest.raises(MedmarkError, match="already running: .*medmark down"):
        up(folder)
    script = """
import mlflow
with mlflow.start_run():
    mlflow.log_metric("x", 1.5)
    mlflow.log_text("hello", "note.txt")
    print(mlflow.active_run().info.run_id)
"""
    environment = os.environ | {"MLFLOW_TRACKING_URI": services.mlflow, "MLFLOW_DISABLE_TELEMETRY": "true"}
    logged = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True, timeout=120
    )
    assert logged.returncode == 0, logged.stderr
    assert list((folder / "data" / "mlflow" / "artifacts").rglob("note.txt"))
    assert len(processes_of(folder)) >= 2
    assert down(folder) == ["seaweedfs", "mlflow"]
    assert processes_of(folder) == []
    assert not any(s.running or s.answers for s in status(folder).values())
    assert down(folder) == []


def test_only_this_machine_can_reach_it_and_only_with_keys(services, tmp_path):
    (tmp_path / "file").write_text("private")
    store_for(services, "evidence").put(tmp_path / "file", f"s3://{EVIDENCE}/file")
    ports = json.loads((services.folder / "services.json").read_text())["ports"]
    asked = {
        f"http://127.0.0.1:{ports['s3']}/{EVIDENCE}/file": 403,
        f"http://127.0.0.1:{ports['filer']}/buckets/{EVIDENCE}/file": 401,
        f"http://127.0.0.1:{ports['filer']}/buckets/{EVIDENCE}/": 401,
        f"http://127.0.0.1:{ports['volume']}/": 401,
    }
    for url, expected in asked.items():
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(url, timeout=5)
        assert caught.value.code == expected, url
        caught.value.close()
    open_to = subprocess.run(["ss", "-ltn"], capture_output=True, text=True).stdout if shutil.which("ss") else ""
    for line in open_to.splitlines()[1:]:
        address, _, port = line.split()[3].rpartition(":")
        if int(port) in ports.values():
            assert address == "127.0.0.1"


def test_keys_are_private_and_different(services):
    assert stat.S_IMODE(services.folder.stat().st_mode) == 0o700
    files = [*(services.folder / "credentials").iterdir(), services.folder / "services.json"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    keys = [json.loads(path.read_text()) for path in services.credentials.values()]
    secrets = {key["secret_key"] for key in keys}
    assert len(secrets) == 3 and all(len(secret) >= 40 for secret in secrets)
    logs = "".join(path.read_text() for path in (services.folder / "logs").iterdir())
    told = repr(services) + str(status(services.folder)) + logs
    for pid in processes_of(services.folder):
        told += open(f"/proc/{pid}/cmdline").read()  # which every user may read
    assert not any(secret in told for secret in secrets)


def test_data_and_keys_outlive_a_restart(folder, tmp_path):
    first = up(folder, mlflow_port=None, retention_days=3)
    (tmp_path / "file").write_text("kept")
    store_for(first, "release").put(tmp_path / "file", f"s3://{RELEASES}/file")
    down(folder)
    second = up(folder, mlflow_port=None)
    assert second == first
    assert store_for(second, "release").read(f"s3://{RELEASES}/file", 10) == b"kept"
    assert store_for(second, "admin")._client.get_object_lock_config(RELEASES).duration == 3  # days; not reset
    kill_server(folder)
    assert not status(folder)["seaweedfs"].running
    third = up(folder, s3_port=free_port(), mlflow_port=None)
    assert third.s3 != first.s3
    assert store_for(third, "release").read(f"s3://{RELEASES}/file", 10) == b"kept"


def test_a_port_that_is_taken(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MedmarkError, match=f"port {port} cannot be used for s3 .*; choose another"):
            up(folder, s3_port=port)
        with pytest.raises(MedmarkError, match=f"port {port} cannot be used for mlflow"):
            up(folder, mlflow_port=port)


def test_a_missing_program(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MedmarkError, match="no program 'weed'.*pip install"):
        up(folder)


@pytest.mark.parametrize("script", ["echo first; echo 'what went wrong'; exit 3", "echo 'still thinking'; sleep 100"])
def test_a_program_that_does_not_start(folder, monkeypatch, tmp_path, script):
    program = tmp_path / "weed"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(module, "_weed", lambda: program)
    monkeypatch.setitem(module.START_WITHIN, "seaweedfs", 1.0)
    with pytest.raises(
        MedmarkError, match="(ended at its start: what went wrong|within 1 s: still thinking); see .*log"
    ):
        up(folder, mlflow_port=None)
    assert not status(folder)["seaweedfs"].running


def test_a_child_that_ignores_the_signal_and_its_parent_is_ended(folder, monkeypatch, tmp_path):
    program, child = tmp_path / "weed", tmp_path / "child"
    program.write_text(f"#!/bin/sh\ntrap '' TERM\nsetsid sleep 100 &\necho $! > {child}\nsleep 100\n")
    program.chmod(0o755)
    monkeypatch.setattr(module, "_weed", lambda: program)
    monkeypatch.setitem(module.START_WITHIN, "seaweedfs", 0.5)
    monkeypatch.setattr(module, "STOP_WITHIN", 1.0)
    with pytest.raises(MedmarkError, match="does not answer"):
        up(folder, mlflow_port=None)
    left = Path(f"/proc/{int(child.read_text())}/cmdline")
    assert not left.exists() or left.read_bytes() == b""  # a zombie that nobody has waited for yet


def test_a_number_that_another_process_has_now_is_not_killed(folder, tmp_path):
    other = subprocess.Popen(["sleep", "60"])
    try:
        module._signal(other.pid, "0" * 32, signal.SIGKILL)
        time.sleep(0.1)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_up_killed_half_way_leaves_what_down_finds(folder):
    script = f"from medmark.pipelines.services import up; up({str(folder)!r})"
    starting = subprocess.Popen([sys.executable, "-c", script])
    try:
        deadline = time.monotonic() + 60
        while not processes_of(folder):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        starting.kill()
        starting.wait()
    assert processes_of(folder)
    assert "seaweedfs" in down(folder)
    assert processes_of(folder) == []


def test_two_at_a_time(folder, monkeypatch):
    monkeypatch.setattr(module, "LOCK_WITHIN", 0.1)
    with (
        module._locked(folder, make=True),
        pytest.raises(MedmarkError, match="another 'medmark up' or 'down' is at work"),
    ):
        up(folder)


def test_a_folder_with_something_else_is_not_touched(tmp_path):
    (tmp_path / "mine").write_text("my file")
    tmp_path.chmod(0o755)
    with pytest.raises(MedmarkError, match="not empty: .*; choose a new folder"):
        up(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_a_folder_without_services(tmp_path):
    for call in (down, status):
        with pytest.raises(MedmarkError, match="no services in .*; give the folder of 'medmark up'"):
            call(tmp_path)
    (tmp_path / "services.json").write_text("{}")
    with pytest.raises(MedmarkError, match="unreadable: .*services.json"):
        status(tmp_path)
