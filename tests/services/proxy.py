"""A TCP proxy on loopback that does to a connection what networks do."""

from __future__ import annotations

import socket
import ssl
import threading
import time

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>please</Message></Error>"


class Proxy:
    """Passes bytes on, as a context manager.

    Args:
        address: of the server, ``http://127.0.0.1:port``.
        refuse: first connections that are answered with 503.
        cut_after: bytes of an answer after which a connection is cut; None: never.
        cuts: how many connections are cut.
        rate: bytes a second in each direction; None: as fast as they come.
        tls: for the clients' side.

    Attributes:
        address: of the proxy.
        requests: the first lines and headers of all requests that begin a connection.
    """

    def __init__(self, address: str, *, refuse=0, cut_after=None, cuts=0, rate=None, tls: ssl.SSLContext | None = None):
        host, port = address.removeprefix("http://").split(":")
        self._server = (host, int(port))
        self._refuse, self._cut_after, self._cuts, self._rate, self._tls = refuse, cut_after, cuts, rate, tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"{'https' if tls else 'http'}://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests: list[bytes] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            client.settimeout(20)
            if self._tls:
                client = self._tls.wrap_socket(client, server_side=True)
            first = client.recv(65536)
            with self._lock:
                self.requests.append(first)
                refused, self._refuse = self._refuse > 0, self._refuse - 1
            if refused:
                head = (
                    f"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: {len(SLOW_DOWN)}\r\n"
                )
                client.sendall(head.encode() + b"Connection: close\r\n\r\n" + SLOW_DOWN)
                time.sleep(0.05)
                client.close()
                return
            server = socket.create_connection(self._server, timeout=20)
            server.sendall(first)
        except OSError:
            client.close()
            return
        threading.Thread(target=self._pump, args=(client, server, False), daemon=True).start()
        self._pump(server, client, True)

    def _pump(self, source: socket.socket, target: socket.socket, answer: bool) -> None:
        passed = 0
        try:
            while data := source.recv(65536):
                passed += len(data)
                with self._lock:
                    cut = answer and self._cuts > 0 and self._cut_after is not None and passed > self._cut_after
                    self._cuts -= cut
                if cut:
                    break
                target.sendall(data)
                if self._rate:
                    time.sleep(len(data) / self._rate)
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()
