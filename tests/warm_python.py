"""A ``python3`` that has imported what is slow to import, for the steps of pipelines.

``python3 warm_python.py FOLDER`` serves; FOLDER then holds a command ``python3`` that runs ``-m MODULE ARGUMENTS`` in a process forked from the
server, with the caller's environment, folder and streams, and fails as it fails. medmark itself is imported anew each time; other packages were imported before, without the caller's environment.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# onnxruntime starts a thread, which no forked process has
IMPORTED = (
    "kfp.dsl.executor", "torch", "torchvision", "torch.onnx", "pandas", "pyarrow.parquet", "scipy.stats", "mlflow", "matplotlib.pyplot",
    "monai.networks.nets", "minio", "piq", "pytorch_grad_cam", "cryptography.fernet",
)  # fmt: skip
CALLER = """#!{python} -IS
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
call = json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(call).to_bytes(8, "big")], [0, 1, 2])
server.sendall(call)
code = server.recv(4)
sys.exit(int.from_bytes(code, "big") if code else 1)
"""


@contextmanager
def warm_python(folder: Path, python: str | Path = sys.executable) -> Iterator[Path]:
    """Serves until the end; the folder to put first in PATH. ``python`` is that of the environment that steps run in."""
    environment = os.environ | {"_KFP_RUNTIME": "true"}  # kfp imports less in a step
    command = [str(python), __file__, str(folder)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, cwd=folder) as server:
        try:
            if not server.stdout.readline():
                raise RuntimeError("the server of warm processes did not start")
            yield folder
        finally:
            server.terminate()


def serve(folder: Path) -> None:
    for name in IMPORTED:
        __import__(name)
    address = str(folder / "socket")
    caller = folder / "python3"
    caller.write_text(CALLER.format(python=sys.executable, address=address))
    caller.chmod(0o755)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        print("ready", flush=True)
        while True:
            connection, _ = listening.accept()
            if os.fork():
                connection.close()
                continue
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            answer(connection)
            return


def answer(connection: socket.socket) -> None:
    """Runs what a caller asks for in a process of its own, and tells the caller how it ended."""
    length, streams, _, _ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as stream:
        arguments, folder, environment = json.loads(stream.read(int.from_bytes(length, "big")))
    running = os.fork()
    if running:
        _, status = os.waitpid(running, 0)
        connection.sendall((os.waitstatus_to_exitcode(status) % 256).to_bytes(4, "big"))
        os._exit(0)
    for number, given in enumerate(streams):
        os.dup2(given, number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    tempfile.tempdir = None
    module, sys.argv, code = arguments[2], arguments[2:], 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)  # to take all these modules down takes long


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
