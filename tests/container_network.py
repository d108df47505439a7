"""A network from which containers reach given servers of this machine and nothing else."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit
from uuid import uuid4


@contextlib.contextmanager
def container_network() -> Iterator[tuple[str, Callable[[str], str]]]:
    """Gives the network's name, and what makes an address of this machine one that containers reach."""
    name = f"medmark-{uuid4().hex[:12]}"

    def docker(*arguments: str) -> str:
        return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout.strip()

    docker("network", "create", "--internal", name)
    listening: list[socket.socket] = []
    try:
        gateway = docker("network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", name)

        def reachable(address: str) -> str:
            parts = urlsplit(address)
            server = socket.create_server((gateway, 0))
            listening.append(server)
            threading.Thread(target=_accept, args=(server, (parts.hostname, parts.port)), daemon=True).start()
            return f"{parts.scheme}://{gateway}:{server.getsockname()[1]}"

        yield name, reachable
    finally:
        for server in listening:
            server.close()
        docker("network", "rm", name)


def _accept(server: socket.socket, target: tuple[str | None, int | None]) -> None:
    with contextlib.suppress(OSError):  # closed
        while True:
            client, _ = server.accept()
            behind = socket.create_connection(target)
            for source, sink in ((client, behind), (behind, client)):
                threading.Thread(target=_copy, args=(source, sink), daemon=True).start()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
