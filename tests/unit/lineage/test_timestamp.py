"""Against a real authority: the openssl command behind HTTP."""

import random
import shutil
import ssl
import subprocess
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import ThreadingHTTPServer

import pytest
from commitment_case import FIXTURES, RELEASE, Handler, copy_evidence
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from medmark.components.base.errors import MedmarkError
from medmark.components.lineage import timestamp
from medmark.components.lineage.commitment import commit, verify_commitment
from medmark.components.lineage.timestamp import request_timestamp, verify_timestamp

KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key()
FROZEN = FIXTURES / "commitment-v1"
REJECTED = bytes.fromhex("30053003020102")  # TimeStampResp with PKIStatus 2 and nothing else


def test_a_stamped_commitment_round_trips(evidence, authority, tmp_path):
    before = datetime.now(UTC) - timedelta(seconds=2)
    made = commit(RELEASE, evidence, KEY, tmp_path / "commitment.json", timestamp_url=authority.url)
    assert made["timestamp"] is None and "was not checked" in made["time_says"]
    checked = verify_commitment(
        tmp_path / "commitment.json", PUBLIC, evidence_dir=evidence, timestamp_roots=authority.root
    )
    assert before < datetime.fromisoformat(checked["timestamp"]) <= datetime.now(UTC)
    assert checked["time_says"] == f"a time stamp authority saw the commitment at {checked['timestamp']}"
    assert checked == made | {key: checked[key] for key in ("timestamp", "time_says")}
    ((headers, question),) = authority.asked
    assert headers["Content-Type"] == "application/timestamp-query" and len(question) < 100


def test_openssl_agrees(evidence, authority, tmp_path):
    commit(RELEASE, evidence, KEY, tmp_path / "commitment.json", timestamp_url=authority.url)
    command = f"openssl ts -verify -data commitment.json -in commitment.tsr -CAfile {authority.root}"
    said = subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True, timeout=20)
    assert b"Verification: OK" in said.stdout


def test_the_signers_time_is_not_the_authoritys(evidence, authority, tmp_path):
    """Who sets his clock back fools nobody who has the authority's root."""
    early = datetime(2001, 1, 1, tzinfo=UTC)
    commit(RELEASE, evidence, KEY, tmp_path / "commitment.json", timestamp_url=authority.url, now=early)
    unchecked = verify_commitment(tmp_path / "commitment.json", PUBLIC)
    assert unchecked["time_says"].startswith("2001-01-01T00:00:00Z is only the signer's own claim")
    checked = verify_commitment(tmp_path / "commitment.json", PUBLIC, timestamp_roots=authority.root)
    assert datetime.fromisoformat(checked["timestamp"]).year > 2025


def test_certificates_may_expire_afterwards():
    (root,) = x509.load_pem_x509_certificates((FROZEN / "tsa-root.pem").read_bytes())
    assert root.not_valid_after_utc < datetime.now(UTC)
    data, token = ((FROZEN / f"commitment.{suffix}").read_bytes() for suffix in ("json", "tsr"))
    stamped = verify_timestamp(token, data, FROZEN / "tsa-root.pem", "t.tsr")
    assert root.not_valid_before_utc < stamped < root.not_valid_after_utc


def test_a_stamp_that_does_not_hold_is_named(evidence, authority, start_authority, tmp_path):
    path, stamp = tmp_path / "commitment.json", tmp_path / "commitment.tsr"
    commit(RELEASE, evidence, KEY, path, timestamp_url=authority.url)
    good = stamp.read_bytes()
    twin = copy_evidence(tmp_path / "twin")
    commit(RELEASE, twin, KEY, tmp_path / "twin.json", timestamp_url=authority.url)
    another = start_authority()
    for bad, said in [
        ((tmp_path / "twin.tsr").read_bytes(), "time stamp does not hold: .*commitment.tsr .Mismatch between messages"),
        (request_timestamp(another.url, path.read_bytes()), "time stamp does not hold: .*commitment.tsr"),
        (b"", "time stamp does not hold: .*commitment.tsr"),
        (REJECTED, "time stamp does not hold: .*commitment.tsr"),
        (good[:-1], "time stamp does not hold: .*commitment.tsr"),
        (b"x" * (2 << 20), "time stamp is larger than"),
        (None, "time stamp cannot be read: .*commitment.tsr"),
    ]:
        stamp.unlink()
        if bad is not None:
            stamp.write_bytes(bad)
        with pytest.raises(MedmarkError, match=said) as caught:
            verify_commitment(path, PUBLIC, timestamp_roots=authority.root)
        assert "\n" not in str(caught.value)
    stamp.write_bytes(good)
    (tmp_path / "junk.pem").write_text("junk")
    for roots, said in [
        (another.root, "time stamp does not hold"),
        (tmp_path / "junk.pem", "no root certificates: .*junk.pem"),
        (tmp_path / "none.pem", "root certificates cannot be read: .*none.pem"),
        (authority.folder / "tsa.key", "no root certificates"),
    ]:
        with pytest.raises(MedmarkError, match=said):
            verify_commitment(path, PUBLIC, timestamp_roots=roots)
    assert verify_commitment(path, PUBLIC, timestamp_roots=authority.root)["timestamp"]


def test_no_changed_stamp_tells_another_time(authority):
    token = request_timestamp(authority.url, b"data")
    true, rng, refused = verify_timestamp(token, b"data", authority.root, "t.tsr"), random.Random(3), 0
    for _ in range(400):
        place = rng.randrange(len(token))
        bad = token[:place] + bytes([token[place] ^ (1 << rng.randrange(8))]) + token[place + 1 :]
        try:
            assert verify_timestamp(bad, b"data", authority.root, "t.tsr") == true  # parts of it are not signed
        except MedmarkError as error:
            refused += 1
            assert "t.tsr" in str(error) and "\n" not in str(error)
    assert refused > 200


def stamp_other_data(handler, question):
    """The digest of the question changed: the authority stamps what nobody asked for."""
    digest = bytes.fromhex("3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7")  # SHA-256 of b"data"
    assert digest in question
    handler.send(200, handler.server.reply(question.replace(digest, bytes(32))))


def drip(handler, question):
    handler.send(200, b"")
    try:
        while not handler.server.released.wait(0.1):
            handler.wfile.write(b" ")
            handler.wfile.flush()
    except OSError:  # the client has gone
        handler.close_connection = True


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (stamp_other_data, "stamps something else"),
        (lambda h, q: h.send(200, b""), "no RFC 3161 answer"),
        (lambda h, q: h.send(200, b"<html>\n\x1b[2J" * 50), "no RFC 3161 answer"),
        (lambda h, q: h.send(200, REJECTED), "refuses with status 2"),
        (lambda h, q: h.send(200, b"x" * (1 << 20)), "answers with more than"),
        (lambda h, q: h.send(500, b"\x1b[2J\n" * 99), "answers with status 500"),
        (lambda h, q: h.send(302, b"", Location=h.server.url), "answers with status 302"),
        (lambda h, q: h.wfile.write(b"junk\r\n\r\n"), "gives no answer"),
        (lambda h, q: None, "gives no answer"),
        (lambda h, q: h.server.released.wait(20), "gives no answer within 0.6 s"),
        (drip, "gives no answer within 0.6 s"),
    ],
)
def test_bad_authorities_are_refused(authority, monkeypatch, act, said):
    monkeypatch.setattr(timestamp, "TIMEOUT", 0.6 if "0.6" in said else 10.0)
    authority.act = act
    started = time.monotonic()
    with pytest.raises(MedmarkError, match=f"{authority.url} .*{said}") as caught:
        request_timestamp(authority.url, b"data")
    assert time.monotonic() - started < 5 and len(authority.asked) == 1
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_an_earlier_answer_is_refused(authority):
    earlier = request_timestamp(authority.url, b"data")
    authority.act = lambda handler, question: handler.send(200, earlier)
    with pytest.raises(MedmarkError, match="stamps something else"):
        request_timestamp(authority.url, b"data")


def test_without_the_stamp_that_was_asked_for_nothing_is_written(evidence, authority, tmp_path):
    authority.act = lambda handler, question: handler.send(503, b"")
    with pytest.raises(MedmarkError, match="answers with status 503"):
        commit(RELEASE, evidence, KEY, tmp_path / "commitment.json", timestamp_url=authority.url)
    assert {p.name for p in tmp_path.iterdir()} == {"evidence"} and not (evidence / "opening.json").exists()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "tsa.example",
        "ftp://tsa.example",
        "file:///etc/passwd",
        "http://",
        "http://u:secret@tsa.example",
        "http://a:b/",
    ]
    + [
        "https://tsa.example/?key=secret",
        "http://tsa.example/#secret",
        "http://tsa.example/\n",
        "http://[::1",
        "http://a:99999",
    ],
)
def test_malformed_urls_are_refused_and_not_repeated(url):
    with pytest.raises(MedmarkError, match="URL is malformed") as caught:
        request_timestamp(url, b"data")
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_an_untrusted_tls_certificate_is_refused(tmp_path):
    if not shutil.which("openssl"):
        pytest.skip("no openssl command: install it to test TLS")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout k.pem -out c.pem -days 1"
    command = [*command.split(), "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=20)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "c.pem", tmp_path / "k.pem")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.handle_error = lambda *args: None  # the client breaks the handshake off
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            with pytest.raises(MedmarkError, match="TLS certificate does not hold"):
                request_timestamp(f"https://127.0.0.1:{server.server_port}/", b"data")
        finally:
            server.shutdown()
