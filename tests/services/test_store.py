"""The object store client against a real SeaweedFS, and against servers that lie."""

import datetime
import errno
import http.server
import os
import resource
import ssl
import subprocess
import threading
import time

import minio.api
import pytest
from medmark.components.base.digests import file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.storage import retry
from medmark.components.storage import store as store_module
from medmark.components.storage.place import Place, check_name, parse
from medmark.components.storage.store import Store
from medmark.pipelines.services import EVIDENCE, RELEASES, up
from object_store import content, kill_server, processes_of, store_for
from proxy import Proxy

SECRET = "a-secret-key-that-nobody-may-see"


@pytest.fixture
def folder(tmp_path):
    """Files of many sizes; one needs several parts."""
    folder = tmp_path / "files"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "empty").write_bytes(b"")
    (folder / "a b+c%20ü.txt").write_bytes(b"name")
    (folder / "deep" / "er" / "small").write_bytes(os.urandom(1000))
    (folder / "large").write_bytes(os.urandom((16 << 20) + 12345))
    return folder


def raised(call) -> str:
    """The one line that a call fails with."""
    with pytest.raises(MedmarkError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_round_trip(services, folder, tmp_path):
    store, place = store_for(services, "release"), f"s3://{RELEASES}/round"
    assert store.upload(folder, place) == 4
    assert store.upload(folder, place) == 0
    assert store.list(place)["large"] == (16 << 20) + 12345
    assert store.download(place, tmp_path / "back") == 4
    assert content(tmp_path / "back") == content(folder)
    assert store.download(place, tmp_path / "back") == 0
    (folder / "empty").write_bytes(b"no more")
    assert store.upload(folder, place) == 1


def test_objects_are_versioned_and_locked(services, tmp_path):
    store, place = store_for(services, "release"), parse(f"s3://{RELEASES}/locked")
    for text in ("one", "two"):
        (tmp_path / "file").write_text(text)
        store.put(tmp_path / "file", place / "file")
    client = store._client
    versions = list(client.list_objects(RELEASES, prefix="locked/", recursive=True, include_version=True))
    assert sorted(client.get_object(RELEASES, "locked/file", version_id=v.version_id).read() for v in versions) == [
        b"one",
        b"two",
    ]
    assert store.locked_until(place / "file") > datetime.datetime.now(datetime.UTC).isoformat()
    for identity in ("release", "admin"):
        for version in versions:
            with pytest.raises(minio.api.S3Error, match="AccessDenied"):
                store_for(services, identity)._client.remove_object(RELEASES, "locked/file", version.version_id)


def test_each_identity_has_its_bucket(services, tmp_path):
    release, evidence = store_for(services, "release"), store_for(services, "evidence")
    (tmp_path / "file").write_text("private")
    evidence.put(tmp_path / "file", f"s3://{EVIDENCE}/file")
    release.put(tmp_path / "file", f"s3://{RELEASES}/file")
    for store, bucket in ((release, EVIDENCE), (evidence, RELEASES)):
        for call in (
            lambda s=store, b=bucket: s.list(f"s3://{b}"),
            lambda s=store, b=bucket: s.read(f"s3://{b}/file", 100),
            lambda s=store, b=bucket: s.get(f"s3://{b}/file", tmp_path / "stolen"),
            lambda s=store, b=bucket: s.put(tmp_path / "file", f"s3://{b}/new"),
            lambda s=store, b=bucket: s._client.put_object(b, "new", open(tmp_path / "file", "rb"), 7),
        ):
            with pytest.raises((MedmarkError, minio.api.S3Error), match="(?i)access denied"):
                call()
    assert not (tmp_path / "stolen").exists()
    assert evidence.list(f"s3://{EVIDENCE}") == {"file": 7}


def test_wrong_credentials_bucket_and_clock(services, folder, monkeypatch, tmp_path):
    key = store_for(services, "release")._secrets[1]
    for store in (Store(services.s3, key, SECRET), Store(services.s3, "nobody", SECRET)):
        text = raised(lambda s=store: s.upload(folder, f"s3://{RELEASES}/x"))
        assert "credentials refused" in text and "check access key" in text
        assert SECRET not in text + repr(store) and key not in text + repr(store)
    admin = store_for(services, "admin")
    assert "no bucket medmark-nothing" in raised(lambda: admin.download("s3://medmark-nothing/x", tmp_path / "x"))
    assert "bucket exists" in raised(lambda: store_for(services, "release").list("s3://medmark-nothing/x"))
    assert "nothing there" in raised(lambda: admin.download(f"s3://{RELEASES}/nothing", tmp_path / "x"))
    now = minio.api.time.utcnow
    monkeypatch.setattr(minio.api.time, "utcnow", lambda: now() - datetime.timedelta(hours=1))
    assert "set the clock" in raised(lambda: admin.upload(folder, f"s3://{RELEASES}/x"))


def wait_until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def run_and_kill(services, call, begun) -> str:
    """Kills the server as soon as a call has begun to work; what the call fails with."""
    errors = []

    def run():
        try:
            call()
        except MedmarkError as error:
            errors.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(begun)
    kill_server(services.folder)
    thread.join(60)
    assert not thread.is_alive() and errors
    return errors[0]


def test_resumes_after_the_server_was_killed(services, tmp_path, quick, monkeypatch):
    patient = 0.5  # seconds of backoff: a server that has just come back may still fail to read what it has
    folder, back, place = tmp_path / "files", tmp_path / "back", f"s3://{RELEASES}/killed"
    folder.mkdir()
    for i in range(60):
        (folder / f"file-{i:02}").write_bytes(os.urandom(2 << 20))
    store, watcher = store_for(services, "release"), store_for(services, "release")
    text = run_and_kill(services, lambda: store.upload(folder, place), lambda: len(watcher.list(place)) >= 5)
    assert "no answer" in text and "run again" in text
    assert processes_of(services.folder) == []
    assert up(services.folder, mlflow_port=None).s3 == services.s3
    with monkeypatch.context() as patch:
        patch.setattr(retry, "BACKOFF", patient)
        assert 0 < store.upload(folder, place) <= 55
    text = run_and_kill(services, lambda: store.download(place, back), lambda: len(list(back.glob("file-*"))) >= 5)
    assert "no answer" in text
    up(services.folder, mlflow_port=None)
    monkeypatch.setattr(retry, "BACKOFF", patient)
    assert 0 < store.download(place, back) <= 55
    assert content(back) == content(folder)


def test_busy_server_and_slow_link(services, folder, tmp_path, quick):
    (folder / "large").write_bytes(os.urandom(1 << 20))
    with Proxy(services.s3, refuse=4, rate=4 << 20) as proxy:
        store = store_for(services, "release", proxy.address)
        assert store.upload(folder, f"s3://{RELEASES}/slow") == 4
        assert len(proxy.requests) > 4
        store.download(f"s3://{RELEASES}/slow", tmp_path / "back")
    assert content(tmp_path / "back") == content(folder)
    with Proxy(services.s3, refuse=99) as proxy:
        store = store_for(services, "release", proxy.address)
        assert "no answer" in raised(lambda: store.list(f"s3://{RELEASES}/slow"))
        assert len(proxy.requests) == retry.TRIES


def test_a_cut_download_goes_on_where_it_was_cut(services, tmp_path, quick):
    (tmp_path / "file").write_bytes(os.urandom(6 << 20))
    store_for(services, "release").put(tmp_path / "file", f"s3://{RELEASES}/cut/file")
    with Proxy(services.s3, cut_after=2 << 20, cuts=2) as proxy:
        assert store_for(services, "release", proxy.address).get(f"s3://{RELEASES}/cut/file", tmp_path / "back")
        ranges = [r for r in proxy.requests if r.startswith(b"GET") and b"range: bytes=" in r.lower()]
    assert len(ranges) == 2
    assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()


def test_a_damaged_partial_file_is_read_again(services, tmp_path, quick):
    (tmp_path / "file").write_bytes(os.urandom(3 << 20))
    store = store_for(services, "release")
    store.put(tmp_path / "file", f"s3://{RELEASES}/damaged")
    digest = store.sha256(f"s3://{RELEASES}/damaged")
    for damaged in (b"x" * 1000, b"x" * (3 << 20), b"x" * (4 << 20)):
        (tmp_path / f".back.{digest[:16]}.partial").write_bytes(damaged)
        assert store.get(f"s3://{RELEASES}/damaged", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()
        (tmp_path / "back").unlink()
    assert not list(tmp_path.glob(".*partial"))


def test_over_tls(services, folder, tmp_path):
    certificate, key = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with Proxy(services.s3, tls=context) as proxy:
        store = store_for(services, "release", proxy.address.removeprefix("https://"), ca=str(certificate))
        assert store.endpoint == proxy.address
        assert store.upload(folder, f"s3://{RELEASES}/tls") == 4
        assert store.download(f"s3://{RELEASES}/tls", tmp_path / "back") == 4
        assert "MEDMARK_S3_CA" in raised(lambda: store_for(services, "release", proxy.address).list(f"s3://{RELEASES}"))
    assert content(tmp_path / "back") == content(folder)


def make_certificate(folder):
    """A self-signed certificate for 127.0.0.1."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    certificate = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *secret))
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", path], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small file system")
    yield path
    subprocess.run(["umount", path], check=True)


def test_disk_full(services, small_disk, tmp_path):
    (tmp_path / "file").write_bytes(os.urandom(5 << 20))
    store = store_for(services, "release")
    store.put(tmp_path / "file", f"s3://{RELEASES}/disk/file")
    text = raised(lambda: store.download(f"s3://{RELEASES}/disk", small_disk))
    assert "disk full" in text and os.strerror(errno.ENOSPC) in text
    assert not (small_disk / "file").exists()
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    assert store.download(f"s3://{RELEASES}/disk", small_disk) == 1
    assert (small_disk / "file").read_bytes() == (tmp_path / "file").read_bytes()


def test_file_size_limit(services, tmp_path):
    (tmp_path / "file").write_bytes(os.urandom(5 << 20))
    store = store_for(services, "release")
    store.put(tmp_path / "file", f"s3://{RELEASES}/limit")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, old[1]))
    try:
        assert "disk full" in raised(lambda: store.get(f"s3://{RELEASES}/limit", tmp_path / "back"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert not (tmp_path / "back").exists()


def test_a_file_that_changes_while_it_is_sent_becomes_no_object(services, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"what is there")
    monkeypatch.setattr(store_module, "file_sha256", lambda path: "0" * 64)  # of what was there before
    store = store_for(services, "release")
    assert "changed while" in raised(lambda: store.put(tmp_path / "file", f"s3://{RELEASES}/changed"))
    assert store.sha256(f"s3://{RELEASES}/changed") is None


def test_links_are_not_uploaded(services, tmp_path):
    (tmp_path / "link").symlink_to("/etc/hostname")
    assert "neither file nor folder" in raised(
        lambda: store_for(services, "release").upload(tmp_path, f"s3://{RELEASES}/x")
    )


class Liar(http.server.BaseHTTPRequestHandler):
    """Answers every listing with ``server.names``, every object with ``server.body`` and says ``server.digest``."""

    def do_HEAD(self):
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.send_header("x-amz-meta-sha256", self.server.digest)
        self.send_header("ETag", '"e"')
        self.send_header("Last-Modified", "Sat, 01 Jan 2022 00:00:00 GMT")
        self.end_headers()

    def do_GET(self):
        body = self.server.body
        if "list-type" in self.path:
            time_ = "<LastModified>2022-01-01T00:00:00.000Z</LastModified><ETag>e</ETag><StorageClass>S</StorageClass>"
            keys = "".join(
                f"<Contents><Key>{n}</Key><Size>{self.server.size}</Size>{time_}</Contents>" for n in self.server.names
            )
            listing = f"<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated>{keys}</ListBucketResult>"
            body = self.server.listing or listing.encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        if self.server.location:
            self.send_header("Location", self.server.location)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def liar():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Liar)
    server.status, server.names, server.size, server.body, server.digest = 200, [], 4, b"body", "0" * 64
    server.listing, server.location = b"", None
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


NAMES = ["../x", "x/../../y", "/etc/x", "x//y", "x\\y", "x\n", "a/./b", "..", "n" * 201, "/".join(["n" * 100] * 11)]


@pytest.mark.parametrize("name", NAMES)
def test_hostile_object_names(liar, tmp_path, name):
    liar.names = ["p/fine", "p/" + name]
    store = Store(liar.url, "key", SECRET)
    assert "refused object name" in raised(lambda: store.download("s3://bucket/p", tmp_path / "in" / "here"))
    assert list(tmp_path.rglob("*")) == []
    with pytest.raises(MedmarkError):
        check_name(name, "here")


def test_nul_in_a_name():
    with pytest.raises(MedmarkError, match="refused object name"):
        check_name("a\0b", "here")


def test_objects_that_stand_for_folders_are_left_out(liar, tmp_path):
    liar.names, liar.size = ["p/", "p/a/", "p/a/b"], 0
    assert list(Store(liar.url, "key", SECRET).list("s3://bucket/p")) == ["a/b"]
    liar.names = ["p/../"]
    assert "refused object name" in raised(lambda: Store(liar.url, "key", SECRET).list("s3://bucket/p"))


def test_folders_and_listings(services, folder):
    store, place = store_for(services, "release"), f"s3://{RELEASES}/listed"
    store.upload(folder, place)
    assert store.folders(place) == ["deep"] and store.folders(f"{place}/deep") == ["er"]
    sizes = {name: size for name, (size, etag) in store.listing(place).items() if etag}
    assert sizes == store.list(place) and len(sizes) == 4


def test_what_others_put_is_taken_in_one_piece(services, tmp_path, quick):
    store, place = store_for(services, "release"), parse(f"s3://{RELEASES}/taken/file")
    (tmp_path / "file").write_bytes(os.urandom(6 << 20))
    store._client.fput_object(RELEASES, place.prefix, str(tmp_path / "file"))
    assert "without a stated SHA-256" in raised(lambda: store.get(place, tmp_path / "x"))
    with Proxy(services.s3, cut_after=2 << 20, cuts=2) as proxy:
        taken = store_for(services, "release", proxy.address).take(place, tmp_path / "parts")
        assert len([r for r in proxy.requests if r.startswith(b"GET") and b"range: bytes=" in r.lower()]) == 2
    assert taken.read_bytes() == (tmp_path / "file").read_bytes() and taken.name == file_sha256(taken)
    taken.write_bytes(b"damaged")
    assert store.take(place, tmp_path / "parts").read_bytes() == (tmp_path / "file").read_bytes()
    (tmp_path / "file").write_bytes(b"another")
    store._client.fput_object(RELEASES, place.prefix, str(tmp_path / "file"))
    assert store.take(place, tmp_path / "parts").read_bytes() == b"another"
    assert "at most 3 are read" in raised(lambda: store.take(place, tmp_path / "parts", limit=3))
    assert "no such object" in raised(lambda: store.take(f"{place}s", tmp_path / "parts"))


def test_objects_that_are_not_what_they_say(liar, tmp_path, quick):
    store = Store(liar.url, "key", SECRET)
    text = raised(lambda: store.get("s3://bucket/x", tmp_path / "x"))
    assert "does not match its SHA-256" in text
    liar.digest = "no digest"
    assert "without a stated SHA-256" in raised(lambda: store.get("s3://bucket/x", tmp_path / "x"))
    assert "more than 3 bytes" in raised(lambda: store.read("s3://bucket/x", 3))
    liar.names, liar.size = ["x"], 1 << 50
    assert "refused object" in raised(lambda: store.list("s3://bucket"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("answer", [b"<html>hello</html>", b"<ListBucket", b"\xff\xfe", b"<a><b/></a>" * 3])
def test_nonsense_instead_of_a_listing(liar, answer, tmp_path):
    liar.listing = answer
    text = raised(lambda: Store(liar.url, "key", SECRET).download("s3://bucket/p", tmp_path))
    assert "no object store's answer" in text or "nothing there" in text


def test_no_redirect_and_no_echo_of_credentials(liar, quick):
    store = Store(liar.url, "key-of-mine", SECRET)
    liar.status, liar.location = 307, "http://127.0.0.1:1/elsewhere"
    assert "127.0.0.1:1/" not in raised(lambda: store.list("s3://bucket"))
    liar.status, liar.location = 400, None
    liar.listing = f"<Error><Code>Bad</Code><Message>{SECRET} key-of-mine\nnews</Message></Error>".encode()
    text = raised(lambda: store.list("s3://bucket"))
    assert "news" in text and SECRET not in text and "key-of-mine" not in text


@pytest.mark.parametrize(
    "uri", ["", "bucket/x", "http://b/x", "s3://", "s3://B/x", "s3://bucket/../x", "s3://bu..cket/x"]
)
def test_addresses_that_are_none(uri):
    with pytest.raises(MedmarkError):
        parse(uri)


def test_addresses():
    assert parse("s3://bucket") == Place("bucket")
    assert str(parse("s3://bucket/a/b/")) == "s3://bucket/a/b"
    assert parse("s3://bucket") / "a" / "b" == Place("bucket", "a/b")


@pytest.fixture
def environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("MEDMARK_S3_")]:
        monkeypatch.delenv(name)

    def set_(**values):
        for name, value in values.items():
            monkeypatch.setenv(f"MEDMARK_S3_{name}", str(value))

    return set_


def test_from_environment(environment, services):
    assert "MEDMARK_S3_ENDPOINT" in raised(Store.from_environment)
    environment(ENDPOINT="store.example:9000")
    assert "MEDMARK_S3_ACCESS_KEY" in raised(Store.from_environment)
    environment(ACCESS_KEY="key", SECRET_KEY=SECRET)
    store = Store.from_environment()
    assert store.endpoint == "https://store.example:9000" and SECRET not in repr(store)
    environment(ENDPOINT="http://store.example")
    assert "use https" in raised(Store.from_environment)
    environment(INSECURE="1")
    assert Store.from_environment().endpoint == "http://store.example"
    environment(CA="/nothing.pem")
    assert "MEDMARK_S3_CA" in raised(Store.from_environment)


def test_a_second_identity(environment, services, tmp_path):
    environment(CREDENTIALS=services.credentials["release"])
    assert "MEDMARK_S3_EVIDENCE_ENDPOINT" in raised(lambda: Store.from_environment("evidence"))
    assert Store.for_evidence()._secrets == store_for(services, "release")._secrets
    environment(EVIDENCE_CREDENTIALS=services.credentials["evidence"])
    assert Store.for_evidence()._secrets == store_for(services, "evidence")._secrets
    assert Store.from_environment()._secrets == store_for(services, "release")._secrets
    environment(EVIDENCE_CREDENTIALS=tmp_path / "nothing")
    assert "MEDMARK_S3_EVIDENCE_CREDENTIALS" in raised(Store.for_evidence)


def test_credentials_file(environment, services, tmp_path):
    environment(CREDENTIALS=services.credentials["release"])
    assert Store.from_environment().list(f"s3://{RELEASES}/nothing") == {}
    copy = tmp_path / "copy.json"
    copy.write_bytes(services.credentials["release"].read_bytes())
    copy.chmod(0o644)
    environment(CREDENTIALS=copy)
    assert "others may read" in raised(Store.from_environment)
    copy.chmod(0o600)
    copy.write_text(f"{SECRET} no json")
    assert SECRET not in raised(Store.from_environment)


@pytest.mark.parametrize(
    "endpoint", [f"https://key:{SECRET}@host", "https://host/path", "ftp://host", "https://", "h:x"]
)
def test_endpoints_that_are_none(endpoint):
    assert SECRET not in raised(lambda: Store(endpoint, "key", SECRET))
