"""Signed statements about a release: a DSSE envelope (Ed25519) around an in-toto Statement v1.

A statement is accepted only as medmark writes it, byte for byte: one signature, no other field, no other spelling of the same JSON or
base64.
"""

from __future__ import annotations

import copy
import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NoReturn, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from google.protobuf.json_format import Error as ProtoError
from google.protobuf.json_format import MessageToDict, ParseDict
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement
from medmark.components.base.digests import HEX, canonical_json
from medmark.components.base.errors import MedmarkError
from medmark.components.base.text import one_line
from medmark.components.lineage.files import parse_exact
from medmark.components.lineage.keys import key_id
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]  # it has types, but no __all__

PAYLOAD_TYPE = "application/vnd.in-toto+json"
NAME = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
MEDMARK = re.compile(r"[\w.+-]{1,64}", re.ASCII)
TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class Signed:
    """A signed file as parsed; trust nothing in it before :func:`check_signature`.

    Attributes:
        what: what the file is, for example ``commitment``; it is published as ``<what>.json``.
        path: path of the file.
        data: its bytes.
        envelope: its DSSE envelope.
        release_name: name of the release or marked model that it is about.
        release_digest: its digest.
        predicate: what it says about the release.
        signed_by: id of the key that signed it.
    """

    what: str
    path: Path
    data: bytes
    envelope: Envelope
    release_name: str
    release_digest: str
    predicate: dict
    signed_by: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


class Subject(Protocol):
    """What a statement is about: a release, or a marked model."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...

    @property
    def path(self) -> Path: ...


def sign(
    key: Ed25519PrivateKey, what: str, path: Path, release: Subject, predicate_type: str, predicate: dict
) -> Signed:
    """Signs a statement about a release, or about a marked model; the file is not written yet.

    Args:
        key: signing key.
        what: what the file is, for example ``commitment``.
        path: where it is to be written.
        release: the release or the model.
        predicate_type: type of the predicate, a URI.
        predicate: what to say about the release; JSON values.

    Raises:
        MedmarkError: the name of the release is empty, too long or not printable.
    """
    if not NAME.fullmatch(release.name) or not release.name.isprintable():
        raise MedmarkError(f"release name unfit for a {what}: {release.path}; 1 to 200 printable characters are needed")
    statement = _statement(release.name, release.digest, predicate_type, predicate)
    envelope = Envelope(canonical_json(statement), PAYLOAD_TYPE, {})
    public = key.public_key()
    envelope.sign(CryptoSigner(key, SSlibKey.from_crypto(public, keyid=key_id(public))))
    return understood(canonical_json(envelope.to_dict()), what, path, predicate_type)


def understood(data: bytes, what: str, path: Path, predicate_type: str) -> Signed:
    """Parses a signed file; the caller checks the predicate.

    Args:
        data: bytes of the file.
        what: what the file is, for messages.
        path: path of the file.
        predicate_type: type that the predicate must have.

    Raises:
        MedmarkError: medmark does not write such bytes.
    """
    try:
        envelope = Envelope.from_dict(copy.deepcopy(parse_exact(data)))  # from_dict changes what it is given
        if canonical_json(envelope.to_dict()) != data:
            raise ValueError("not written as medmark writes it")
        if envelope.payload_type != PAYLOAD_TYPE:
            raise ValueError(f"its payload type is not {PAYLOAD_TYPE}")
        if len(envelope.signatures) != 1:
            raise ValueError("one signature is needed")
        (signature,) = envelope.signatures.values()
        if signature.unrecognized_fields or not HEX.fullmatch(signature.keyid):
            raise ValueError("its signature has no key id")
        stated = parse_exact(envelope.payload)
        Statement.copy_from_pb(ParseDict(stated, Statement([], "", {}).pb)).validate()
        if stated["predicateType"] != predicate_type:
            raise ValueError(f"its predicate type is not {predicate_type}")
        (subject,), predicate = stated["subject"], stated["predicate"]
        name, digest = subject["name"], subject["digest"]["sha256"]
        if stated != _statement(name, digest, predicate_type, predicate):
            raise ValueError(f"its statement has other fields than a {what}")
        if not NAME.fullmatch(name) or not name.isprintable():
            raise ValueError("its release_name is malformed")
        if not HEX.fullmatch(digest):
            raise ValueError("its release_digest is malformed")
    except KeyError as error:
        damaged(what, path, "a field is missing", error)
    except (ValueError, TypeError, AttributeError, ProtoError, RecursionError) as error:
        damaged(what, path, str(error), error)
    return Signed(what, path, data, envelope, name, digest, predicate, signature.keyid)


def check_signature(signed: Signed, public_key: Ed25519PublicKey) -> None:
    """Refuses a file that another key signed, or that was changed afterwards.

    Args:
        signed: the file.
        public_key: public key of the signer.

    Raises:
        MedmarkError: the file was signed with another key or changed.
    """
    wanted = key_id(public_key)
    if signed.signed_by != wanted:
        raise MedmarkError(
            f"{signed.what} of another signer: {signed.path} names the key {signed.signed_by[:16]}..., given is"
            f" {wanted[:16]}...; get the public key from the signer"
        )
    try:
        signed.envelope.verify([SSlibKey.from_crypto(public_key, keyid=wanted)], 1)
    except VerificationError as error:
        raise MedmarkError(
            f"signature does not hold: {signed.path} was changed after it was signed, or signed with another key than"
            f" {wanted[:16]}...; get the {signed.what}.json that was published again"
        ) from error


def check_time(text: str) -> None:
    """Refuses a time in any other form than medmark writes.

    Raises:
        ValueError: it has another form.
    """
    if datetime.strptime(text, TIME).strftime(TIME) != text:
        raise ValueError("its signed_at is malformed")


def damaged(what: str, path: Path, reason: str, cause: Exception) -> NoReturn:
    """Raises the error for a file that medmark did not write."""
    reason = one_line(reason)
    raise MedmarkError(f"damaged {what}: {path} ({reason}); get the {what}.json that was published again") from cause


def _statement(name: str, digest: str, predicate_type: str, predicate: dict) -> dict:
    """Makes a statement in its only form. Integers stay integers: those of protobuf are floats, but equal."""
    subject = ResourceDescriptor(name=name, digest={"sha256": digest})
    statement = Statement([subject.pb], predicate_type, predicate)
    statement.validate()
    stated = MessageToDict(statement.pb)
    if stated["predicate"] != predicate:
        raise ValueError("a number too large for a statement")
    return stated | {"predicate": predicate}
