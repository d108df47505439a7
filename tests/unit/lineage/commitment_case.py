"""Complete evidence of a release, and a real time stamp authority on this machine."""

import json
import shutil
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from medmark.components.base.digests import canonical_json
from medmark.components.dataset.release import Release

FIXTURES = Path(__file__).parents[2] / "fixtures"
RELEASE = FIXTURES / "release-v1"
CONFIG = """[tsa]
default_tsa = authority
[authority]
serial = serial
default_policy = 1.2.3.4.1
digests = sha256
signer_digest = sha256
accuracy = secs:1
ess_cert_id_alg = sha256
"""


def copy_evidence(folder: Path, **changes) -> Path:
    """Complete evidence of the release: the frozen one, made to name this release."""
    shutil.copytree(FIXTURES / "evidence-v1", folder)
    content = json.loads((folder / "evidence.json").read_bytes()) | {"release_digest": Release(RELEASE).digest}
    (folder / "evidence.json").write_bytes(canonical_json(content | changes))
    return folder


class Authority(ThreadingHTTPServer):
    """``openssl ts -reply`` behind HTTP; misbehaves if ``act`` is set to a function of the handler and the question.

    Attributes:
        url: to send questions to.
        root: PEM file of its root certificate.
    """

    daemon_threads = True

    def __init__(self, folder: Path, *, valid: timedelta = timedelta(days=1)):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/tsr"
        self.folder, self.root, self.act, self.asked = folder, folder / "root.pem", None, []
        self.released = threading.Event()  # ends answers that hang
        folder.mkdir(parents=True)
        (folder / "tsa.cnf").write_text(CONFIG)
        (folder / "serial").write_text("01\n")
        ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        ca = certificate("test root", ca_key, None, ca_key, valid, authority=True)
        leaf = certificate("test time stamps", key, ca, ca_key, valid)
        self.root.write_bytes(ca.public_bytes(Encoding.PEM))
        (folder / "tsa.pem").write_bytes(leaf.public_bytes(Encoding.PEM))
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / "tsa.key").write_bytes(pem)

    def reply(self, question: bytes) -> bytes:
        (self.folder / "question.tsq").write_bytes(question)
        command = "openssl ts -reply -config tsa.cnf -queryfile question.tsq -signer tsa.pem -inkey tsa.key"
        command += " -out reply.tsr"
        subprocess.run(command.split(), cwd=self.folder, check=True, capture_output=True, timeout=20)
        return (self.folder / "reply.tsr").read_bytes()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        question = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((dict(self.headers), question))
        if self.server.act:
            self.server.act(self, question)
        else:
            self.send(200, self.server.reply(question))

    def send(self, status, body, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def certificate(name, key, issuer, issuer_key, valid, *, authority=False):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + valid)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(not authority, False, False, False, False, authority, authority, False, False), critical=True
        )
    )
    if not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
    return builder.sign(issuer_key, hashes.SHA256())
