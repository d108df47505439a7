"""Suspects that try to hang, exhaust or crash an audit."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
import torch
from made_up_evidence import SIDE, Model, write_evidence
from medmark.components.verification.suspect_audit import audit_targets
from medmark.components.verification.suspects import fetch_suspects
from scripted_server import endless, honest, running, status

IMPATIENT = {"batch_size": 4, "timeout": 0.5, "retries": 1, "backoff": 0.01}
FIRST_TWO = "f = Flatten(x)  at = Constant<value = int64[2] {0, 1}>()  p = Gather<axis=1>(f, at)"
INPUT = f"(float[N,1,{SIDE},{SIDE}] x) => (float[N,2] y)"
LOOP = f"""{INPUT} {{ {FIRST_TWO}
    m = Constant<value = int64 {{9223372036854775807}}>()  t = Constant<value = bool {{1}}>()
    y = Loop(m, t, p) <body = b (int64 i, bool c, float[N,2] v) => (bool d, float[N,2] w) {{
        d = Identity(c)  w = Identity(v) }}> }}"""
BOMB = f"""{INPUT} {{ {FIRST_TWO}
    s = Constant<value = int64[2] {{2147483648, 1}}>()  a = ReduceMax<keepdims=0>(p)  b = Expand(a, s)
    r = ReduceMax<keepdims=0>(b)  y = Add(p, r) }}"""
CRASH = f"""{INPUT} {{ {FIRST_TWO}
    z = Sub(p, p)  i = Cast<to=7>(z)  l = Constant<value = int64[1] {{-9223372036854775808}}>()
    o = Constant<value = int64[1] {{-1}}>()  j = Add(i, l)  k = Add(i, o)  d = Div(j, k)  y = Cast<to=1>(d) }}"""
BRIGHTNESS = f"(float[N,1,{SIDE},{SIDE}] x) => (float[N,1] y) {{ f = Flatten(x)  y = ReduceMean<axes=[1]>(f) }}"


def onnx_file(path, text, opset=20):
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> agraph {text}')
    path.write_bytes(model.SerializeToString())
    return str(path)


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    innocents = [Model(f"innocent-{i:02d}", reaction=0.01 * i) for i in range(40)]
    return write_evidence(tmp_path_factory.mktemp("evidence"), innocents=innocents)


@pytest.fixture(scope="module")
def innocent(tmp_path_factory):
    """Answers with the brightness of an image, which the mark does not change."""
    return onnx_file(tmp_path_factory.mktemp("innocent") / "innocent.onnx", BRIGHTNESS, opset=17)


@pytest.fixture
def server(monkeypatch):
    """Serves a thief."""
    monkeypatch.delenv("MEDMARK_SUSPECT_TOKEN", raising=False)
    with running() as server:
        server.metadata["inputs"][0]["shape"] = [-1, 1, SIDE, SIDE]
        server.answer = thief
        yield server


def thief(images):
    rows = Model("thief", reaction=7)(torch.tensor(images, dtype=torch.float32))
    return {"name": "p", "datatype": "FP64", "shape": [len(rows), 2], "data": rows.ravel().tolist()}


def audited(evidence, targets, out, within, **connection):
    """Entries of the suspects, of an audit that must end in so many seconds."""
    started = time.monotonic()
    audit = audit_targets(evidence, targets, out, contract={}, connection=IMPATIENT | connection)
    assert time.monotonic() - started < within
    return audit["suspects"]


def open_for_one_reason(suspect, why):
    assert suspect["verdict"] == "inconclusive"
    (reason,) = suspect["missing"]
    assert why in reason and reason.isprintable()


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
HANGS = {
    "continue": endless(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "header": endless(b"a", b"HTTP/1.1 200 OK\r\nX: "),
    "chunk length": endless(b"0", CHUNKED),
    "chunk extension": endless(b"a", CHUNKED + b"1;"),
}


@pytest.mark.parametrize("hanging", HANGS)
def test_a_server_that_hangs_leaves_its_answers_and_the_other_suspects(evidence, innocent, server, tmp_path, hanging):
    server.script = [honest, honest] + [HANGS[hanging]] * 10
    hung, other = audited(evidence, [server.url, innocent], tmp_path, 10)
    open_for_one_reason(hung, "nothing within 0.5 s")
    assert other["verdict"] == "not_owned"
    assert (hung["asked"], server.asked) == (8, 8)
    server.script = []
    again, other = audited(evidence, [server.url, innocent], tmp_path, 10)
    assert (again["verdict"], other["asked"]) == ("owned", 0)
    assert server.asked == 8 + again["asked"] == 3 * again["queries"] // 4 * 4 + (12 if again["queries"] % 4 else 0)


def test_a_server_that_hangs_before_it_is_asked(evidence, innocent, server, tmp_path):
    server.describe = HANGS["continue"]
    hung, other = audited(evidence, [server.url, innocent], tmp_path, 10)
    open_for_one_reason(hung, "nothing within 0.5 s")
    assert (other["verdict"], hung["identity"], hung["asked"]) == ("not_owned", None, 0)


def test_a_server_cannot_put_off_for_ever(evidence, innocent, server, tmp_path):
    server.script = [status(503, Retry_After="1")] * 50
    hung, other = audited(evidence, [server.url, innocent], tmp_path, 10)
    open_for_one_reason(hung, "status 503")
    assert (server.posts, other["verdict"]) == (2, "not_owned")


@pytest.mark.parametrize(
    ("text", "why"),
    [(LOOP, "no answer within 0.5 s"), (BOMB, "needs more than 4 GiB"), (CRASH, "ended by SIGFPE")],
    ids=["loop", "bomb", "crash"],
)
def test_a_hostile_model_ends_alone(evidence, innocent, tmp_path, text, why):
    hostile = onnx_file(tmp_path / "hostile.onnx", text)
    assert os.path.getsize(hostile) < 500
    ended, other = audited(evidence, [hostile, innocent], tmp_path / "out", 10)
    open_for_one_reason(ended, why)
    assert other["verdict"] == "not_owned"
    assert not children(os.getpid())


def test_memory_is_what_the_user_grants(evidence, innocent, tmp_path):
    small = onnx_file(tmp_path / "small.onnx", BOMB.replace("2147483648", str(1 << 27)))  # 512 MiB
    ended, other = audited(evidence, [small, innocent], tmp_path / "out", 10, memory=0.5)
    open_for_one_reason(ended, "needs more than 0.5 GiB")
    assert other["verdict"] == "not_owned"


def swollen(path):
    """A model of 6 MB, three million empty nodes, that takes 500 MB to parse."""
    path.write_bytes(b"\x08\x0a\x3a\x80\x80\x80\x03" + b"\x0a\x00" * (3 << 20))
    return path


class Place:
    """What stands between a command and an object store."""

    def __init__(self, path):
        self.path = path

    def read(self, target, *, beside, **_):
        self.beside = list(beside(self.path))
        return self.path


def test_a_model_in_an_object_store_is_not_parsed_here(tmp_path):
    path = swollen(tmp_path / "m.onnx")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    place = Place(path)
    assert fetch_suspects(place, ["s3://bucket/m.onnx"]) == {"s3://bucket/m.onnx": path}
    assert place.beside == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # KiB


def children(pid):
    """Processes whose parent is ``pid``, by their command line."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid:
                found[int(stat.parent.name)] = (stat.parent / "cmdline").read_bytes().split(b"\0") + [state.encode()]
        except OSError:  # gone meanwhile
            continue
    return found


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


AUDIT = """
import sys
from medmark.components.verification.suspect_audit import audit_targets
audit_targets(sys.argv[1], sys.argv[2:3], sys.argv[3], contract={}, connection={"timeout": 100.0})
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_the_audit_is_ended(evidence, tmp_path, end):
    hostile = onnx_file(tmp_path / "hostile.onnx", LOOP)
    command = [sys.executable, "-c", AUDIT, str(evidence), hostile, str(tmp_path / "out")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as audit:
        try:
            wait_for(lambda: (tmp_path / "out" / "answers.sqlite").exists() or audit.poll() is not None)
            (child,) = wait_for(lambda: children(audit.pid))
            time.sleep(0.5)
            audit.send_signal(end)
            audit.wait(10)
            wait_for(lambda: gone(child), 5)
        finally:
            audit.kill()


def test_the_token_stands_in_no_command_line(evidence, server, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDMARK_SUSPECT_TOKEN", "s3cr3t-t0k3n")
    seen = []

    def look(handler):
        seen.extend(part for command in children(os.getpid()).values() for part in command)
        honest(handler)

    server.script = [look]
    audited(evidence, [server.url], tmp_path, 20)
    assert seen and b"s3cr3t-t0k3n" not in b"\0".join(seen)
    assert all(headers["Authorization"] == "Bearer s3cr3t-t0k3n" for headers in server.headers)
    assert "s3cr3t-t0k3n" not in json.dumps(json.loads((tmp_path / "audit.json").read_bytes()))
