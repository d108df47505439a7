"""A model server on loopback whose misbehaviour is scripted."""

import json
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np


def first_pixels(images):
    """The honest answer: the first pixel is P(pneumonia)."""
    p = images.reshape(len(images), -1)[:, 0]
    return {"name": "p", "datatype": "FP32", "shape": [len(p), 2], "data": np.stack([1 - p, p], 1).ravel().tolist()}


class Server(ThreadingHTTPServer):
    """A v2 server of one model whose misbehaviour is scripted: one function for each POST, then honest answers."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.posts, self.asked, self.times, self.headers, self.paths = [], 0, 0, [], [], []
        self.describe = None
        self.released = threading.Event()  # ends answers that hang
        self.metadata = {
            "name": "m",
            "versions": ["1"],
            "platform": "onnx",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1, 4, 4]}],
            "outputs": [{"name": "p", "datatype": "FP32", "shape": [-1, 2]}],
        }
        self.answer = first_pixels
        self.url = f"http://127.0.0.1:{self.server_port}/v2/models/m"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.note()
        self.server.describe(self) if self.server.describe else self.reply(200, self.server.metadata)

    def do_POST(self):
        self.note()
        self.question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.posts += 1
        self.server.times.append(time.monotonic())
        script = self.server.script
        (script.pop(0) if script else honest)(self)

    def note(self):
        self.server.paths.append(self.path)
        self.server.headers.append(dict(self.headers))

    def reply(self, status, body, **headers):
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": len(text)} | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args):
        pass


def honest(handler):
    given = handler.question["inputs"][0]
    images = np.array(given["data"]).reshape(given["shape"])
    handler.server.asked += len(images)
    handler.reply(200, {"model_name": "m", "outputs": [handler.server.answer(images)]})


def status(code, body=b"{}", **headers):
    return lambda handler: handler.reply(code, body, **headers)


def output(**changes):
    """An answer of 200 with a changed output."""

    def act(handler):
        shape = handler.question["inputs"][0]["shape"]
        handler.reply(200, {"outputs": [first_pixels(np.zeros(shape)) | changes]})

    return act


def hang(handler):
    handler.server.released.wait(20)


def drip(handler):
    """Never silent for as long as the timeout, and never done."""
    handler.send_response(200)
    handler.end_headers()
    try:
        while not handler.server.released.wait(0.2):
            handler.wfile.write(b" ")
            handler.wfile.flush()
    except OSError:  # the client has gone
        handler.close_connection = True


def vanish(handler):
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def cut(handler):
    """Announces more than it sends."""
    handler.reply(200, b'{"outputs": [', Content_Length=5000)
    vanish(handler)


def echo(code):
    return lambda handler: handler.reply(code, {"error": f"bad header {handler.headers['Authorization']}\n\x1b[31m"})


def garble(handler):
    """No HTTP at all, with the token in it."""
    handler.wfile.write(f"{handler.headers['Authorization']}\r\n\r\n".encode())
    handler.close_connection = True


@contextmanager
def running():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join(10)


def endless(piece, first=b""):
    """Begins an answer by hand and never comes to its end, without ever being silent for long."""

    def act(handler):
        try:
            handler.wfile.write(first)
            while not handler.server.released.wait(0.02):
                handler.wfile.write(piece)
        except OSError:  # the client has gone
            pass
        handler.close_connection = True

    return act


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
HANGS = {
    "silence": hang,
    "body": drip,
    "continue": endless(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "header": endless(b"a", b"HTTP/1.1 200 OK\r\nX: "),
    "chunk length": endless(b"0", CHUNKED),
    "chunk extension": endless(b"a", CHUNKED + b"1;"),
}
