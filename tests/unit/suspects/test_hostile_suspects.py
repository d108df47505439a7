"""Suspects that try to hang, exhaust or crash an audit."""

import json
import os
import re
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import hypothesis.extra.numpy
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_up_evidence import CLASSES, SIDE, Model, write_evidence
from medmark.components.base.errors import MedmarkError
from medmark.components.evidence.queries import read_queries
from medmark.components.report.audit_report import write_audit_report
from medmark.components.suspects import process as suspect_process
from medmark.components.suspects.contract import Contract
from medmark.components.suspects.http import Connection
from medmark.components.suspects.messages import Channel, Unavailable, pack, unpack
from medmark.components.suspects.suspects import fetch_suspects, open_suspect
from medmark.components.verification.audit import audit as ask
from scripted_server import HANGS, honest, running, status

IMPATIENT = {"batch_size": 4, "timeout": 0.5, "retries": 1, "backoff": 0.01}
FIRST_TWO = (
    "f = Flatten(x)  at = Constant<value = int64[2] {0, 1}>()  q = Gather<axis=1>(f, at)  p = Softmax<axis=1>(q)"
)
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
    benign_models = [Model(f"benign-{i:02d}", reaction=0.01 * i) for i in range(40)]
    return write_evidence(tmp_path_factory.mktemp("evidence"), benign_models=benign_models)


@pytest.fixture(scope="module")
def benign(tmp_path_factory):
    """Answers with the brightness of an image, which the mark does not change."""
    return onnx_file(tmp_path_factory.mktemp("innocent") / "benign.onnx", BRIGHTNESS, opset=17)


@pytest.fixture
def server(monkeypatch):
    """Serves an adversary."""
    monkeypatch.delenv("MEDMARK_SUSPECT_TOKEN", raising=False)
    with running() as server:
        server.metadata["inputs"][0]["shape"] = [-1, 1, SIDE, SIDE]
        server.answer = adversary
        yield server


def adversary(images):
    rows = Model("adversary", reaction=7)(torch.tensor(images, dtype=torch.float32))
    return {"name": "p", "datatype": "FP64", "shape": [len(rows), 2], "data": rows.ravel().tolist()}


def audited(evidence, targets, out, within, **connection):
    """Entries of the suspects, of an audit that must end in so many seconds."""
    started = time.monotonic()
    audit = ask(evidence, targets, out, connection=Connection(**IMPATIENT | connection))
    assert time.monotonic() - started < within
    return audit["suspects"]


def open_for_one_reason(suspect, why):
    assert suspect["verdict"] == "inconclusive"
    (reason,) = suspect["missing"]
    assert why in reason and reason.isprintable()


@pytest.mark.parametrize("hanging", ["continue", "chunk extension"])
def test_a_server_that_hangs_leaves_its_answers_and_the_other_suspects(evidence, benign, server, tmp_path, hanging):
    server.script = [honest, honest] + [HANGS[hanging]] * 10
    hung, other = audited(evidence, [server.url, benign], tmp_path, 20)
    open_for_one_reason(hung, "nothing within 0.5 s")
    assert other["verdict"] == "not_owned"
    assert (hung["asked"], server.asked) == (8, 8)
    server.script = []
    again, other = audited(evidence, [server.url, benign], tmp_path, 300)  # hundreds of questions about the key
    assert (again["verdict"], other["asked"]) == ("owned", 0)
    images, for_key = -(-again["queries"] // 4) * 4, again["key"]["images"]
    assert server.asked == 8 + again["asked"] == 3 * images + 90 * for_key + max(0, for_key - images)


def test_a_server_that_hangs_before_it_is_asked(evidence, benign, server, tmp_path):
    server.describe = HANGS["continue"]
    hung, other = audited(evidence, [server.url, benign], tmp_path, 20)
    open_for_one_reason(hung, "nothing within 0.5 s")
    assert (other["verdict"], hung["identity"], hung["asked"]) == ("not_owned", None, 0)


def test_a_server_cannot_put_off_for_ever(evidence, benign, server, tmp_path):
    server.script = [status(503, Retry_After="1")] * 50
    hung, other = audited(evidence, [server.url, benign], tmp_path, 20)
    open_for_one_reason(hung, "status 503")
    assert (server.posts, other["verdict"]) == (2, "not_owned")


@pytest.mark.parametrize(
    ("text", "why"),
    [(LOOP, "no answer within 0.5 s"), (BOMB, "needs more than 4 GiB"), (CRASH, "ended by SIGFPE")],
    ids=["loop", "bomb", "crash"],
)
def test_a_hostile_model_ends_alone(evidence, benign, tmp_path, text, why, children):
    hostile = onnx_file(tmp_path / "hostile.onnx", text)
    assert os.path.getsize(hostile) < 500
    ended, other = audited(evidence, [hostile, benign], tmp_path / "out", 20)
    open_for_one_reason(ended, why)
    assert other["verdict"] == "not_owned"
    assert not children(os.getpid())


def test_a_model_that_hangs_half_way_leaves_its_answers(evidence, tmp_path):
    """It answers as long as no upper edge is as bright as that of the first marked images."""
    edges = read_queries(evidence, size=SIDE, target=0, stop=4).clean[:, 0, 0].mean(dim=1)
    dark = "b = Constant<value = int64[1] {0}>()  e = Constant<value = int64[1] {16}>()"
    dark += "  g = Constant<value = int64[1] {1}>()  s = Slice(f, b, e, g)  r = ReduceMean(s, g)"
    dark += "  a = ReduceMax<keepdims=0>(r)  l = Constant<value = float {%f}>()  t = Greater(a, l)"
    text = LOOP.replace("t = Constant<value = bool {1}>()", dark % (float(edges.max()) + 0.05))
    hostile = onnx_file(tmp_path / "hostile.onnx", text)
    (hung,) = audited(evidence, [hostile], tmp_path / "out", 20)
    open_for_one_reason(hung, "no answer within 0.5 s")
    assert hung["asked"] == 4
    with sqlite3.connect(tmp_path / "out" / "answers.sqlite") as file:
        assert file.execute("SELECT suspect, count(*) FROM answers").fetchall() == [(hung["identity"], 4)]


def test_memory_is_what_the_user_grants(evidence, benign, tmp_path):
    small = onnx_file(tmp_path / "small.onnx", BOMB.replace("2147483648", str(1 << 29)))  # 2 GiB
    ended, other = audited(evidence, [small, benign], tmp_path / "out", 20, memory=1.0)
    open_for_one_reason(ended, "needs more than 1 GiB")
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


def processes(parent):
    """Processes whose parent is ``parent``: id to command line and state."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, number = stat.read_text().rpartition(")")[2].split()[:2]
            if int(number) == parent:
                found[int(stat.parent.name)] = (stat.parent / "cmdline").read_bytes().split(b"\0") + [state.encode()]
        except OSError:  # gone meanwhile
            continue
    return found


@pytest.fixture
def children():
    """Child processes that a test has started itself: not the servers of other tests, nor Python's resource tracker."""
    before = set(processes(os.getpid()))

    def children(parent):
        return {
            number: command
            for number, command in processes(parent).items()
            if number not in before and not any(b"resource_tracker" in part for part in command)
        }

    return children


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
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
from medmark.components.suspects.http import Connection
from medmark.components.verification.audit import audit
audit(sys.argv[1], sys.argv[2:3], sys.argv[3], connection=Connection(timeout=100.0))
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_when_the_audit_is_ended(evidence, tmp_path, end, children):
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


def test_the_token_stands_in_no_command_line(evidence, server, tmp_path, monkeypatch, children):
    monkeypatch.setenv("MEDMARK_SUSPECT_TOKEN", "s3cr3t-t0k3n")
    seen = []

    def look(handler):
        seen.extend(part for command in children(os.getpid()).values() for part in command)
        honest(handler)

    server.script = [look]
    audited(evidence, [server.url], tmp_path, 300)
    assert seen and b"s3cr3t-t0k3n" not in b"\0".join(seen)
    assert all(headers["Authorization"] == "Bearer s3cr3t-t0k3n" for headers in server.headers)
    assert "s3cr3t-t0k3n" not in json.dumps(json.loads((tmp_path / "audit.json").read_bytes()))


def test_opening_is_within_the_limits(evidence, tmp_path, monkeypatch):
    monkeypatch.setattr(suspect_process, "OPENING", 0.01)
    model = onnx_file(tmp_path / "m.onnx", LOOP)
    (suspect,) = audited(evidence, [model], tmp_path / "out", 20, timeout=0.01)
    open_for_one_reason(suspect, "no answer within 0.01 s")
    assert (suspect["model"], suspect["queries"]) == (None, 0)
    audit = json.loads((tmp_path / "out" / "audit.json").read_bytes())
    write_audit_report(tmp_path / "audit.html", audit)
    assert "not opened" in (tmp_path / "audit.html").read_text(encoding="utf-8")


def test_a_registry_that_hangs(evidence, server, tmp_path, monkeypatch, children):
    server.describe = HANGS["continue"]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    monkeypatch.setattr(suspect_process, "OPENING", 5.0)
    options = {"connection": Connection(**IMPATIENT), "registry": f"http://127.0.0.1:{server.server_port}"}
    audit = ask(evidence, ["models:/m/1"], tmp_path / "out", **options)
    open_for_one_reason(audit["suspects"][0], "models:/m/1 gives no answer within 5 s")
    assert server.paths and not list(scratch.iterdir()) and not children(os.getpid())


# What a process sends that a hostile model has taken over; ours would not.
TAKEN_OVER = """
import json, socket, struct, subprocess, sys, time
end = socket.socket(fileno=int(sys.argv[-2]))
def send(stated, data=b"", size=None):
    text = stated if isinstance(stated, bytes) else json.dumps(stated).encode()
    end.sendall(struct.pack("<IQ", len(text), len(data) if size is None else size) + text + data)
opened = {"inputs": {"x": [[None, 1, 16, 16], "float32"]}, "outputs": {}, "batch_size": 4, "locations": []}
end.recv(1 << 16)
"""
LIES = {
    "nothing": ("sys.exit(3)", "ended its process with status 3"),
    "no message": ("end.sendall(b'x' * 100)", "a message of"),
    "endless": ("send(opened, size=1 << 40)", "a message of"),
    "silence in the middle": ("end.sendall(struct.pack('<IQ', 9, 9)); time.sleep(60)", "no answer within"),
    "no JSON": ("send(b'{')", "broken its process"),
    "deep JSON": ("send(b'[' * 500000)", "nested too deep"),
    "a list": ("send([])", "no object"),
    "a pickle": ("send(b'cos\\nsystem\\n(Vtouch pickled\\ntR.')", "broken its process"),
    "no tensors": ("send(opened | {'inputs': 3})", "no tensors"),
    "too many tensors": ("send(opened | {'inputs': {str(i): [[1], 'float32'] for i in range(1000)}})", "no tensors"),
    "odd shapes": ("send(opened | {'inputs': {'x': [[True, -1, 1e9], 'float32']}})", "a tensor of no shape"),
    "another batch": ("send(opened | {'batch_size': 0})", "no batch size"),
    "files elsewhere": ("send(opened | {'locations': ['/etc/passwd']})", None),
    "file names with NUL": ("send(opened | {'locations': ['a\\0b']})", None),
    "a long error": ("send({'error': 'x\\x1b[31m\\n' * 9999, 'unavailable': True})", r"x \[31m x"),
}


def taken_over(monkeypatch, tmp_path, script):
    (tmp_path / "taken_over.py").write_text(TAKEN_OVER + script)
    monkeypatch.setattr(suspect_process, "COMMAND", [sys.executable, "-I", str(tmp_path / "taken_over.py")])
    monkeypatch.setattr(suspect_process, "OPENING", 1.0)
    return onnx_file(tmp_path / "m.onnx", BRIGHTNESS, opset=17)


@pytest.mark.parametrize("lie", LIES)
def test_a_process_that_was_taken_over_is_not_believed(evidence, tmp_path, monkeypatch, lie, children):
    script, why = LIES[lie]
    model = taken_over(monkeypatch, tmp_path, script)
    with pytest.raises(Unavailable if why else MedmarkError, match=why or "no file in its own folder") as refused:
        open_suspect(model, Contract(), class_names=CLASSES, connection=Connection(timeout=1.0))
    assert str(refused.value).isprintable() and len(str(refused.value)) < 1500
    assert not children(os.getpid()) and not (tmp_path / "pickled").exists()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("send({'dtype': 'float64', 'shape': [4, 2]}, b'x' * 63)", "another size"),
        ("send({'dtype': 'object', 'shape': [4]}, b'x' * 32)", "another size or type"),
        ("send({'dtype': 'float64', 'shape': [1 << 40, 1 << 40]}, b'')", "another size"),
        ("send({'dtype': 'float64', 'shape': [0, 10**30]}, b'')", "broken its process"),
        ("send({'dtype': 'str', 'shape': [4]}, b'a')", "another size"),
        ("send({'dtype': 'str', 'shape': [1]}, b'\\xff')", "broken its process"),
        ("send({'dtype': 'float64', 'shape': [4, 2]}, size=(16 << 20) + 1)", "a message of"),
        ("subprocess.Popen(['sleep', '60'])", "no answer within 1 s"),
    ],
)
def test_answers_of_a_process_that_was_taken_over(tmp_path, monkeypatch, answer, why, children):
    model = taken_over(monkeypatch, tmp_path, f"send(opened)\nend.recv(1 << 20)\n{answer}\ntime.sleep(60)")
    contract = Contract(output="y")
    suspect = open_suspect(model, contract, class_names=CLASSES, connection=Connection(timeout=1.0))
    with pytest.raises(Unavailable, match=why):
        suspect(torch.zeros(4, 1, SIDE, SIDE))
    wait_for(lambda: not any(b"sleep" in command for command in children(1).values()), 5)
    assert not children(os.getpid())


@given(st.binary(max_size=200))
def test_no_bytes_are_mistaken_for_a_message(content):
    ours, theirs = socket.socketpair()
    with Channel(ours) as channel, theirs:
        theirs.sendall(content)
        theirs.shutdown(socket.SHUT_WR)
        try:
            stated, data = channel.receive(limit=1000, seconds=5)
            array = unpack(stated, data)
        except (ValueError, EOFError):
            return
        assert array.nbytes <= 1000


@given(
    st.one_of(
        hypothesis.extra.numpy.arrays(
            st.sampled_from(["float16", "float32", "float64", "int64", "uint8", "bool"]),
            hypothesis.extra.numpy.array_shapes(min_dims=0, min_side=0, max_side=4),
        ),
        st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))).map(
            lambda labels: np.array(labels, dtype=object)
        ),
    )
)
def test_arrays_arrive_as_they_were(array):
    stated, data = pack(array)
    again = unpack(json.loads(json.dumps(stated)), bytearray(data))
    assert (again.dtype, again.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(again, array)


def test_a_model_gets_no_keys_of_the_environment(tmp_path, monkeypatch, children):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t")
    monkeypatch.setenv("MEDMARK_SUSPECT_TOKEN", "t0k3n")
    model = onnx_file(tmp_path / "m.onnx", LOOP)
    task = {"kind": "onnx", "path": model, "where": model}
    with suspect_process.Process(model, task, Connection(), secrets=False) as process:
        process.open(60)
        ((pid, _),) = children(os.getpid()).items()
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"PATH=" in environment and b"s3cr3t" not in environment and b"t0k3n" not in environment
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert re.search(r"Max address space +4294967296 +4294967296", limits)
        assert re.search(r"Max file size +0 +0", limits) and re.search(r"Max core file size +0 +0", limits)
        assert re.search(r"Max cpu time +\d+ ", limits)
