import json
import socket
import threading
import time
import traceback
from contextlib import suppress

import numpy as np
import pytest
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.suspects import http
from medmark.components.suspects.answer_store import StoredSuspect
from medmark.components.suspects.contract import Contract
from medmark.components.suspects.http import TOKEN, Connection, Endpoint, checked_url, read_token
from medmark.components.suspects.messages import Unavailable
from medmark.components.suspects.suspects import SuspectModel, open_suspect
from scripted_server import HANGS, cut, echo, first_pixels, garble, honest, output, running, status, vanish

CLASSES = ["normal", "pneumonia"]
SECRET = "s3cr3t-t0k3n"
QUICK = Connection(batch_size=4, timeout=2.0, retries=2, backoff=0.01)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv(TOKEN, raising=False)
    with running() as server:
        yield server


def connect(server, contract=None, connection=QUICK, url=None):
    """The suspect, in this process."""
    url = checked_url(url or server.url)
    return SuspectModel(Endpoint(url, connection, read_token(url)), contract or Contract(), CLASSES)


@pytest.fixture
def images():
    return torch.rand(10, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def expected(images):
    p = images[:, 0, 0, 0].double().numpy()
    return np.stack([1 - p, p], axis=1)


def test_batches_are_asked_and_put_together(server, images):
    suspect = connect(server)
    assert (suspect.size, suspect.batch_size, suspect.label_only) == (4, 4, False)
    np.testing.assert_allclose(suspect(images), expected(images), atol=1e-7)
    assert (server.posts, server.asked) == (3, 10)
    assert set(server.paths) == {"/v2/models/m", "/v2/models/m/infer"}
    assert not any("Authorization" in headers for headers in server.headers)


def chunked(handler):
    """In pieces without a length, as proxies send."""
    images = np.array(handler.question["inputs"][0]["data"]).reshape(handler.question["inputs"][0]["shape"])
    text = json.dumps({"outputs": [first_pixels(images)]}).encode()
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for piece in (text[:7], text[7:], b""):
        handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")


def test_an_answer_in_pieces(server, images):
    suspect = connect(server)
    server.script = [chunked] * 3
    np.testing.assert_allclose(suspect(images), expected(images), atol=1e-7)
    assert server.posts == 3


def test_version_and_gateway_path_are_kept(server, images):
    url = f"{server.url.removesuffix('/v2/models/m')}/ns/chest/v2/models/m/versions/2/"
    connect(server, url=url)(images)
    assert set(server.paths) == {"/ns/chest/v2/models/m/versions/2", "/ns/chest/v2/models/m/versions/2/infer"}


@pytest.mark.parametrize("trouble", [status(500), status(503), status(429), vanish, cut])
def test_passing_trouble_is_retried(server, images, trouble):
    suspect = connect(server)
    server.script = [trouble, trouble]
    np.testing.assert_allclose(suspect(images), expected(images), atol=1e-7)
    assert (server.posts, server.asked) == (5, 10)


@pytest.mark.parametrize(
    ("trouble", "why"),
    [(status(500, b'{"error": "out of memory"}'), "status 500.*out of memory"), (vanish, "after 3 tries")],
)
def test_lasting_trouble_ends_after_the_retries(server, images, trouble, why):
    suspect = connect(server)
    server.script = [trouble] * 10
    with pytest.raises(MedmarkError, match=why) as refused:
        suspect(images)
    assert server.posts == 3
    assert "\n" not in str(refused.value) and server.url in str(refused.value)


@pytest.mark.parametrize("trouble", HANGS)
def test_a_server_that_hangs_is_left(server, images, trouble):
    suspect = connect(server, connection=Connection(timeout=0.5, retries=1, backoff=0.01))
    server.script = [HANGS[trouble]] * 2
    started = time.monotonic()
    with pytest.raises(MedmarkError, match="nothing within 0.5 s"):
        suspect(images)
    assert 1.0 <= time.monotonic() - started < 8


def test_a_handshake_that_never_ends():
    def shake(listener):
        with listener.accept()[0] as client:
            client.sendall(b"\x16\x03\x03\x40\x00")
            with suppress(OSError):  # until the other end has gone
                while True:
                    client.sendall(b"\x02")
                    time.sleep(0.1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=shake, args=[listener])
        thread.start()
        url, started = f"https://127.0.0.1:{listener.getsockname()[1]}/v2/models/m", time.monotonic()
        with pytest.raises(Unavailable, match="nothing within 0.5 s"):
            Endpoint(url, Connection(timeout=0.5, retries=0), None)
        assert time.monotonic() - started < 5
        thread.join(10)


def test_waits_grow_and_retry_after_is_honoured_within_a_bound(server, images, monkeypatch):
    suspect = connect(server, connection=Connection(retries=5, backoff=0.1))
    waits = []
    monkeypatch.setattr(http.time, "sleep", waits.append)
    odd = ["2", "99999", "Fri, 31 Dec 2100 23:59:59 GMT", "soon"]
    server.script = [status(500), *(status(503, Retry_After=value) for value in odd)]
    suspect(images[:1])
    assert [wait for wait in waits if wait] == pytest.approx([0.1, 2, 60, 60, 1.6])


def test_requests_are_spaced(server, images):
    connect(server, connection=Connection(batch_size=2, rate=10.0))(images)
    gaps = np.diff(server.times)
    assert len(gaps) == 4 and gaps.min() > 0.08


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        (status(200, b'{"outputs": [{"na'), "no JSON"),
        (status(200, b"<html>"), "no JSON"),
        (status(200, b"[" * 100_000), "no JSON"),
        (status(200, b"[]"), "no JSON object"),
        (status(200, b"{}"), "gives 0 outputs"),
        (status(200, b'{"outputs": 3}'), "gives 0 outputs"),
        (output(name="other"), "gives 0 outputs"),
        (output(shape=[4, 3]), "no array"),
        (output(shape=None), "no array"),
        (output(shape=[2, 4]), "shape \\(2, 4\\) to 4 images"),
        (output(shape=[8]), "shape \\(8,\\) to 4 images"),
        (output(shape=[4, 1], data=[0.5] * 4, datatype="INT64"), "int64 is announced"),
        (output(shape=[4, 1], data=[1] * 4, datatype="INT64"), "answers with int64"),
        (output(datatype="FP128"), "unknown datatype"),
        (output(data=[None] * 8), "NoneType"),
        (output(data=["0.5"] * 8), "'str'"),
        (output(data=[True] * 8), "'bool'"),
        (output(data=[10**400] * 8), "no array"),
        (output(data=[float("nan")] * 8), "not finite"),
        (output(data=[0.6] * 8), "does not sum to 1"),
        (output(data=[1.5, -0.5] * 4), "negative"),
        (status(200, b"{}", Content_Encoding="gzip"), "compressed"),
        (status(400, b'{"error": "wrong batch"}'), "status 400.*wrong batch"),
        (status(401), "status 401.*valid token"),
        (status(403), "status 403.*valid token"),
        (status(302, Location="http://127.0.0.1:1/"), "redirects"),
        (status(307, Location="http://127.0.0.1:1/"), "redirects"),
    ],
)
def test_answers_that_cannot_be_right_are_refused_at_once(server, images, trouble, why):
    suspect = connect(server)
    server.script = [trouble]
    with pytest.raises(MedmarkError, match=why) as refused:
        suspect(images)
    assert server.posts == 1
    assert "\n" not in str(refused.value)


def test_an_endpoint_in_a_process_of_its_own_answers_the_same(server, images):
    near, far = connect(server), open_suspect(server.url, Contract(), class_names=CLASSES, connection=QUICK)
    np.testing.assert_array_equal(far(images), near(images))
    assert (far.name, far.identity, far.contract, far.batch_size) == (near.name, near.identity, near.contract, 4)
    assert far.description["inputs"] == server.metadata["inputs"]
    server.metadata["versions"] = ["2"]
    far.close()
    with pytest.raises(MedmarkError, match="has changed since it was opened"):
        far(images)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"platform": "x" * (1 << 16)}, "describes itself in more than 65536 bytes"),
        ({"versions": [float("nan")]}, "what no JSON file can hold"),
        ({"inputs": [{"name": "\ud800", "datatype": "FP32", "shape": [-1, 1, 4, 4]}]}, "what no JSON file can hold"),
    ],
)
def test_descriptions_that_cannot_be_kept_are_refused(server, change, why):
    server.metadata |= change
    with pytest.raises(MedmarkError, match=why):
        connect(server)


def test_a_huge_answer_is_not_read_to_its_end(server, images):
    sent = []

    def flood(handler):
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(400):
                handler.wfile.write(b" " * (1 << 20))
                sent.append(1 << 20)
        except OSError:
            handler.close_connection = True

    suspect = connect(server)
    server.script = [flood]
    with pytest.raises(MedmarkError, match="more than 16777216 bytes"):
        suspect(images)
    assert sum(sent) < 64 << 20  # buffers of the two ends included


def test_a_redirect_takes_neither_images_nor_token_along(server, images, monkeypatch):
    monkeypatch.setenv(TOKEN, SECRET)
    with running() as elsewhere:
        suspect = connect(server)
        server.script = [status(307, Location=f"{elsewhere.url}/infer")]
        with pytest.raises(MedmarkError, match="redirects"):
            suspect(images)
        server.describe = status(302, Location=elsewhere.url)
        with pytest.raises(MedmarkError, match="redirects"):
            connect(server)
        assert not elsewhere.paths


def test_the_token_is_sent_and_never_shown(server, images, monkeypatch, caplog):
    caplog.set_level(0)
    monkeypatch.setenv(TOKEN, SECRET)
    suspect = connect(server)
    suspect(images)
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {SECRET}"}
    label = {"datatype": "BYTES", "data": [SECRET] * 4, "shape": [4]}
    messages = []
    for contract, script in [
        (Contract(), [echo(400)]),
        (Contract(), [echo(401)]),
        (Contract(), [echo(500)] * 3),
        (Contract(), [garble] * 3),
        (Contract(), [vanish] * 3),
        (Contract(), [status(200, SECRET.encode() * 50)]),
        (Contract(), [output(datatype=SECRET)]),
        (Contract(answers="labels", output="p"), [output(**label)]),
    ]:
        server.metadata["outputs"] = []
        suspect = connect(server, contract)
        server.script = script
        with pytest.raises(MedmarkError) as refused:
            suspect(images)
        messages.append(str(refused.value))
        shown = "".join(traceback.format_exception(refused.value))
        assert SECRET not in shown
    assert all(message.isprintable() for message in messages)
    assert "Bearer ***" in messages[0] and "'***'" in messages[-1]
    assert SECRET not in caplog.text + suspect.name


def test_the_identity_does_not_depend_on_the_token(server, monkeypatch):
    before = connect(server).identity
    monkeypatch.setenv(TOKEN, SECRET)
    assert connect(server).identity == before
    server.metadata["versions"] = ["2"]
    assert connect(server).identity != before


@pytest.mark.parametrize("token", ["a b", "a\nb", "tökén", "a\x00"])
def test_tokens_that_no_header_can_hold_are_refused(server, monkeypatch, token):
    monkeypatch.setattr(http.os, "environ", {TOKEN: token})
    with pytest.raises(MedmarkError, match="set it again") as refused:
        connect(server)
    assert token not in str(refused.value)


def test_the_token_does_not_travel_in_the_clear(monkeypatch):
    monkeypatch.setenv(TOKEN, SECRET)
    with pytest.raises(MedmarkError, match="in the clear; use https") as refused:
        open_suspect("http://models.example/v2/models/m", Contract(), class_names=CLASSES)
    assert SECRET not in str(refused.value)


def test_netrc_and_proxies_are_not_used_on_loopback(server, tmp_path, monkeypatch, images):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    connect(server)(images)
    assert not any("Authorization" in headers for headers in server.headers)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{}",
        "http://127.0.0.1:{}/v2/models/",
        "http://127.0.0.1:{}/v2/models/m/infer",
        "http://127.0.0.1:{}/v1/models/m",
        "http://127.0.0.1:{}/v2/models/m?token=secret",
        "http://me:secret@127.0.0.1:{}/v2/models/m",
        "http://127.0.0.1:{}/v2/models/m#secret",
        "http://127.0.0.1:port/v2/models/m",
        "http:///v2/models/m",
    ],
)
def test_urls_of_another_form_are_refused(server, url):
    with pytest.raises(MedmarkError, match="give") as refused:
        connect(server, url=url.format(server.server_port))
    assert "secret" not in str(refused.value)
    assert not server.paths


def tls(server, tmp_path):
    """Puts a certificate of its own authority in front of a server; returns the certificate's path."""
    import datetime
    import ipaddress
    import ssl

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name.from_rfc4514_string("CN=test")
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now, now.replace(year=now.year + 1)
        )
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(pem))
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.url = server.url.replace("http:", "https:")
    return str(tmp_path / "cert.pem")


def test_certificates_are_checked(server, images, tmp_path):
    bundle = tls(server, tmp_path)
    with pytest.raises(MedmarkError, match="not trusted.*certificate authority"):
        connect(server)
    assert not server.paths
    trusting = Connection(ca_bundle=bundle)
    np.testing.assert_allclose(connect(server, connection=trusting)(images), expected(images), atol=1e-7)


@pytest.mark.parametrize(
    ("change", "contract", "why"),
    [
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]}, {"size": 4}, "size 8.*says 4"),
        (
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3, 4, 4]}]},
            {"channels": 1},
            "channels 3.*says 1",
        ),
        ({"inputs": [{"name": "x", "datatype": "BYTES", "shape": [-1, 1]}]}, {}, "takes floats"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 16]}]}, {}, "side, side"),
        ({"inputs": []}, {}, "does not declare its input"),
        ({"inputs": []}, {"input": "x"}, "leaves the channels"),
        ({"inputs": [3]}, {}, "describes its inputs wrongly"),
        ({"inputs": "x"}, {}, "describes its inputs wrongly"),
        ({"outputs": [{"name": "p", "datatype": "FP32", "shape": [-1, 3]}]}, {}, "each of 2 classes"),
        ({"outputs": [{"name": "p", "datatype": "BYTES", "shape": [-1, 1]}]}, {}, "answers with str"),
        ({"outputs": [{"name": n, "datatype": "FP32", "shape": [-1, 2]} for n in "pq"]}, {}, "name the one to use"),
    ],
)
def test_the_description_must_fit_the_contract(server, change, contract, why):
    server.metadata |= change
    with pytest.raises(MedmarkError, match=why):
        connect(server, Contract(**contract))
    assert not server.posts


def test_a_server_without_a_description_is_asked_by_the_contract(server, images):
    server.metadata = {"name": "m", "platform": "", "inputs": [], "outputs": []}
    suspect = connect(server, Contract(input="x", size=4, channels=1))
    np.testing.assert_allclose(suspect(images), expected(images), atol=1e-7)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", ["INT64", "BYTES"])
def test_labels(server, images, kind, nested):
    def label(given):
        found = (given.reshape(len(given), -1)[:, 0] > 0.5).astype(int).tolist()
        data = found if kind == "INT64" else [CLASSES[i] for i in found]
        data = [[value] for value in data] if nested else data
        return {"name": "p", "datatype": kind, "shape": [len(given), 1] if nested else [len(given)], "data": data}

    server.metadata["outputs"] = [{"name": "p", "datatype": kind, "shape": [-1]}]
    server.answer = label
    suspect = connect(server, Contract(answers="labels"))
    assert suspect.label_only
    assert suspect(images).tolist() == np.eye(2)[(images[:, 0, 0, 0] > 0.5).int()].tolist()
    strange = {"INT64": -1, "BYTES": "covid\x1b"}[kind]
    server.answer = lambda given: label(given) | {"shape": [len(given)], "data": [strange] * len(given)}
    with pytest.raises(MedmarkError, match="unknown label") as refused:
        suspect(images)
    assert str(refused.value).isprintable()


def test_answers_survive_a_server_that_goes_away(server, images, tmp_path):
    server.script = [honest, honest] + [vanish] * 3
    with StoredSuspect(connect(server), tmp_path / "answers.db") as first, pytest.raises(MedmarkError, match="3 tries"):
        first(images)
    assert (first.asked, server.asked) == (8, 8)
    with StoredSuspect(connect(server), tmp_path / "answers.db") as second:
        np.testing.assert_allclose(second(images), expected(images), atol=1e-7)
        assert (second.asked, second.reused, server.asked) == (2, 8, 10)
        second(images)
        assert (second.asked, second.reused, server.asked) == (2, 18, 10)


@pytest.mark.parametrize(
    "values",
    [
        {"batch_size": 0},
        {"timeout": 0},
        {"timeout": float("inf")},
        {"memory": 0},
        {"memory": float("nan")},
        {"retries": -1},
        {"backoff": -1},
        {"rate": 0},
        {"ca_bundle": "missing.pem"},
    ],
)
def test_connections_are_checked(values):
    with pytest.raises(MedmarkError):
        Connection(**values)
