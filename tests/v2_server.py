"""MLServer, a real Open Inference v2 server, with ONNX classifiers.

MLServer lives in an environment of its own (it needs an older FastAPI than MLflow's): ``MEDMARK_MLSERVER`` names its
command, by default ``mlserver/bin/mlserver`` in the environment that runs this.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import requests

READY_WITHIN = 60.0  # seconds
COMMAND = Path(os.environ.get("MEDMARK_MLSERVER", Path(sys.prefix) / "mlserver" / "bin" / "mlserver"))


class MLServer:
    """A process of its own, on ports that were free, as a context manager.

    Args:
        folder: for its settings and its log.
        models: name to ONNX file that gives logits, and the class names that it answers with, or None for probabilities.
        size: side of the images.
        classes: how many.
        segmenters: those of the models that answer with a map for each class.
    """

    def __init__(
        self,
        folder: Path,
        models: dict[str, tuple[Path, list[str] | None]],
        *,
        size: int,
        classes: int,
        segmenters: tuple[str, ...] = (),
    ):
        self.folder, self.process = folder, None
        folder.mkdir(parents=True, exist_ok=True)
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        self.port, grpc, metrics = (s.getsockname()[1] for s in sockets)
        for s in sockets:
            s.close()
        settings = {"host": "127.0.0.1", "http_port": self.port, "grpc_port": grpc, "metrics_port": metrics}
        (folder / "settings.json").write_text(json.dumps(settings | {"parallel_workers": 0}))
        shutil.copy(Path(__file__).with_name("mlserver_runtime.py"), folder)
        for name, (path, names) in models.items():
            map_of = [size, size] if name in segmenters else []
            output = {"name": "probabilities", "datatype": "FP32", "shape": [-1, classes, *map_of]}
            if names:
                output = {"name": "label", "datatype": "BYTES", "shape": [-1, 1]}
            settings = {
                "name": name,
                "implementation": "mlserver_runtime.OnnxClassifier",
                "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1, size, size]}],
                "outputs": [output],
                "parameters": {"uri": str(path.resolve()), "extra": {"classes": names}},
            }
            (folder / name).mkdir(exist_ok=True)
            (folder / name / "model-settings.json").write_text(json.dumps(settings))

    def __enter__(self) -> MLServer:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    def url(self, model: str) -> str:
        return f"http://127.0.0.1:{self.port}/v2/models/{model}"

    def start(self) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLSERVER_", "PYTHON"))}
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                [COMMAND, "start", self.folder],
                env=environment | {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_WITHIN
        while not self.ready():
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.kill()
                raise RuntimeError("MLServer did not start:\n" + (self.folder / "server.log").read_text()[-3000:])
            time.sleep(0.1)

    def ready(self) -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{self.port}/v2/health/ready", timeout=2).status_code == 200
        except requests.RequestException:
            return False

    def kill(self) -> None:
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(20)
