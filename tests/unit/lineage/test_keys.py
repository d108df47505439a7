import hashlib
import os
import pty
import stat
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)
from medmark.components.base.errors import MedmarkError
from medmark.components.lineage.keys import PASSPHRASE, ask_passphrase, key_id, load_private, load_public, new_key

SECRET = "correct horse battery"
ASK = "from medmark.components.lineage.keys import ask_passphrase; print(len(ask_passphrase(twice=True)))"


def test_a_key_round_trips_and_is_private(tmp_path):
    made = new_key(tmp_path / "keys", SECRET)
    private, public = tmp_path / "keys" / "medmark.key", tmp_path / "keys" / "medmark.pub"
    key = load_private(private, SECRET)
    load_public(public).verify(key.sign(b"message"), b"message")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600 and stat.S_IMODE(public.stat().st_mode) == 0o644
    assert private.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    der = load_pem_public_key(public.read_bytes()).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert made == key_id(key.public_key()) == hashlib.sha256(der).hexdigest()
    assert sorted(p.name for p in private.parent.iterdir()) == ["medmark.key", "medmark.pub"]


@pytest.mark.parametrize("there", ["medmark.key", "medmark.pub"])
def test_nothing_is_written_over(tmp_path, there):
    (tmp_path / there).symlink_to(tmp_path / "nowhere")
    with pytest.raises(MedmarkError, match=f"already there: .*{there}"):
        new_key(tmp_path, SECRET)
    assert [p.name for p in tmp_path.iterdir()] == [there]


@pytest.mark.parametrize("passphrase", ["", "elevenchars", "x" * 1001, "lone surrogate \udcff"])
def test_bad_passphrases_are_refused_and_not_repeated(tmp_path, passphrase):
    with pytest.raises(MedmarkError, match="passphrase") as caught:
        new_key(tmp_path, passphrase)
    assert not passphrase or passphrase not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_wrong_passphrase_opens_nothing_and_is_not_repeated(tmp_path):
    new_key(tmp_path, SECRET)
    wrong = "a wrong passphrase"
    with pytest.raises(MedmarkError, match=r"medmark\.key; the passphrase is wrong") as caught:
        load_private(tmp_path / "medmark.key", wrong)
    told = repr(caught.value) + repr(caught.value.__cause__)
    assert wrong not in told and SECRET not in told


def pem(key, encryption):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (pem(Ed25519PrivateKey.generate(), NoEncryption()), "not encrypted"),
        (pem(ec.generate_private_key(ec.SECP256R1()), BestAvailableEncryption(SECRET.encode())), "not Ed25519"),
        (b"", "does not open"),
        (b"\0" * 5000, "does not open"),
        (b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n", "does not open"),
        (b"x" * (1 << 21), "larger than"),
    ],
)
def test_other_private_keys_are_refused(tmp_path, content, said):
    (tmp_path / "k").write_bytes(content)
    with pytest.raises(MedmarkError, match=said):
        load_private(tmp_path / "k", SECRET)


def test_other_public_keys_are_refused(tmp_path):
    new_key(tmp_path, SECRET)
    good = (tmp_path / "medmark.pub").read_bytes()
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    other = other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for content in (other, b"", b"junk", good + b"\n", b"note\n" + good, good[:-20], good.replace(b"\n", b"\r\n")):
        (tmp_path / "k").write_bytes(content)
        with pytest.raises(MedmarkError, match=f"public key.*{tmp_path}/k"):
            load_public(tmp_path / "k")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "pipe"):
        with pytest.raises(MedmarkError, match="cannot be read"):
            load_public(path)


def test_a_key_wrapped_more_slowly_by_openssl_opens(tmp_path):
    new_key(tmp_path, SECRET)
    command = "openssl pkcs8 -topk8 -scrypt -in medmark.key -passin env:P -passout env:P -out slow.key"
    try:
        subprocess.run(command.split(), cwd=tmp_path, env={**os.environ, "P": SECRET}, check=True, timeout=20)
    except FileNotFoundError:
        pytest.skip("no openssl command: install it to test keys that it wrote")
    one, other = (load_private(tmp_path / name, SECRET) for name in ("medmark.key", "slow.key"))
    assert key_id(one.public_key()) == key_id(other.public_key())


def test_the_passphrase_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv(PASSPHRASE, SECRET)
    assert ask_passphrase(twice=True) == SECRET
    monkeypatch.setenv(PASSPHRASE, "")
    with pytest.raises(MedmarkError, match="empty or shorter than 12"):
        ask_passphrase()
    monkeypatch.delenv(PASSPHRASE)
    monkeypatch.setattr(sys, "stdin", open(os.devnull))
    with pytest.raises(MedmarkError, match=f"set {PASSPHRASE}"):
        ask_passphrase()


@pytest.mark.parametrize(("second", "printed"), [(SECRET, f"{len(SECRET)}"), ("another passphrase", "differ")])
def test_the_passphrase_is_typed_without_echo(second, printed):
    """In a process with a terminal of its own."""
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k != PASSPHRASE}
    process = subprocess.Popen(
        [sys.executable, "-c", ASK],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=environment,
    )
    try:
        os.close(theirs)
        os.set_blocking(ours, False)
        shown = process.stdout.read1()  # the prompt: echo is off from here on
        os.write(ours, f"{SECRET}\n".encode())
        while b"again" not in shown:
            shown += process.stdout.read1() or pytest.fail(f"no second prompt: {shown!r}")
        os.write(ours, f"{second}\n".encode())
        shown += process.communicate(timeout=20)[0]
        assert printed.encode() in shown
        echoed = b""
        try:
            echoed = os.read(ours, 4096)
        except OSError:  # nothing to read
            pass
        assert SECRET.encode() not in shown + echoed and second.encode() not in shown + echoed
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        os.close(ours)
