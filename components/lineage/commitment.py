"""A signed, dated digest of the evidence that reveals nothing of it.

``commitment.json`` is a DSSE envelope, signed with Ed25519, around an in-toto Statement v1. Its subject is the release; its
predicate holds HMAC-SHA256 of ``evidence.json`` under 32 random bytes, the salt. ``evidence.json`` names the SHA-256 of every
evidence file, so all of them are fixed. ``opening.json`` among the evidence holds the salt. Without it nobody can test a guess of the
evidence; with it the owner cannot pass off other evidence, because the salt has a fixed length and no collisions of HMAC-SHA256 are
known.

Every file here is accepted only as medmark writes it, byte for byte. So a field that medmark does not know is refused, in the envelope
as elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from medmark.components.base.digests import HEX, canonical_json
from medmark.components.base.errors import MedmarkError
from medmark.components.evidence.evidence import read_evidence
from medmark.components.evidence.marked_model import read_subject
from medmark.components.lineage.dsse import (
    MEDMARK,
    TIME,
    Signed,
    Subject,
    check_signature,
    check_time,
    damaged,
    sign,
    understood,
)
from medmark.components.lineage.files import (
    decode_exact,
    parse_exact,
    parse_object,
    read_small,
    refuse_existing,
    write_new,
)
from medmark.components.lineage.timestamp import request_timestamp, verify_timestamp

PREDICATE_TYPE = "urn:medmark:commitment:v1"
OPENING_SCHEMA_VERSION = 1
REVEAL_SCHEMA_VERSION = 1
OPENING = "opening.json"
# an audit reads these; evidence that left one out could grow it later
NEEDED = ("queries.parquet", "innocents.parquet")
NEEDED_OF_MODEL = ("queries.parquet", "benign.json")  # of a marked model; text, trigger and key are in evidence.json
FILE = re.compile(r"[\w.-]{1,200}(/[\w.-]{1,200})*", re.ASCII)


@dataclass(frozen=True)
class Commitment(Signed):
    """What a ``commitment.json`` says; trust nothing in it before its signature is checked.

    Attributes:
        evidence_hmac: hex HMAC-SHA256 of ``evidence.json``.
        signed_at: UTC, as the signer claims.
        medmark: version that wrote it.
    """

    evidence_hmac: str
    signed_at: str
    medmark: str


def commit(
    release_dir: str | Path,
    evidence_dir: str | Path,
    private_key: Ed25519PrivateKey,
    out_file: str | Path,
    *,
    timestamp_url: str | None = None,
    now: datetime | None = None,
) -> dict:
    """Commits to evidence before its release, or marked model, goes out.

    Writes the private ``opening.json`` into the evidence first, then the public ``out_file`` and, beside it, with the suffix
    ``.tsr``, the time stamp. Nothing is written if the authority fails.

    Args:
        release_dir: the marked release, or the folder of a marked model.
        evidence_dir: its complete evidence.
        private_key: see :func:`medmark.components.lineage.keys.load_private`.
        out_file: file to write; its name must end in ``.json``.
        timestamp_url: address of an RFC 3161 time stamp authority; the time is only the signer's claim when None.
        now: time of signing, with a time zone; the present time when None.

    Returns:
        As :func:`verify_commitment`, except that an authority's time is not checked yet.

    Raises:
        MedmarkError: the evidence is incomplete, damaged or of another release; a file exists; or the authority gives no time
            stamp.
    """
    out, folder = Path(out_file), Path(evidence_dir)
    release = read_subject(release_dir)
    stamp = out.with_suffix(".tsr")
    if out.suffix != ".json" or not out.parent.is_dir():
        raise MedmarkError(
            f"commitment cannot be written to {out}; give a name that ends in .json, in a folder that exists"
        )
    for path in (out, stamp):
        if os.path.lexists(path):
            raise refuse_existing(path)
    if os.path.lexists(folder / OPENING):
        raise MedmarkError(
            f"committed to already: {folder / OPENING} is there; keep it, its commitment is worth nothing without it (move it"
            " away only if that commitment was never handed out)"
        )
    data = _read_evidence(folder)
    if subject_digest(read_evidence(folder)) != release.digest:
        raise MedmarkError(f"evidence of another release: {folder}; use the evidence made with {release.path}")
    salt = secrets.token_bytes(32)
    claimed = (now or datetime.now(UTC)).astimezone(UTC).strftime(TIME)
    signed = _sign(private_key, out, release, _hmac(salt, data), claimed)
    token = request_timestamp(timestamp_url, signed.data) if timestamp_url else None
    opening = {
        "schema_version": OPENING_SCHEMA_VERSION,
        "commitment_sha256": signed.sha256,
        "evidence_sha256": hashlib.sha256(data).hexdigest(),
        "salt": salt.hex(),
    }
    write_new(folder / OPENING, canonical_json(opening), 0o600)
    if token:
        write_new(stamp, token, 0o644)
    write_new(out, signed.data, 0o644)
    return _result(signed, evidence=True, stamped=bool(token), time=None)


def verify_commitment(
    commitment_file: str | Path,
    public_key: Ed25519PublicKey,
    *,
    release_digest: str | None = None,
    evidence_dir: str | Path | None = None,
    timestamp_roots: str | Path | None = None,
) -> dict:
    """Checks a commitment, and whatever is given along with it.

    Args:
        commitment_file: its time stamp, if it has one, is beside it with the suffix ``.tsr``.
        public_key: public key of the signer, obtained from the signer and not with the commitment; see
            :func:`medmark.components.lineage.keys.load_public`.
        release_digest: of the release it must be about, hex.
        evidence_dir: evidence with its ``opening.json``; all its files are checked.
        timestamp_roots: PEM file with the authority's root certificates; a time stamp is then required.

    Returns:
        ``release_name``, ``release_digest``, ``evidence_hmac``, ``signed_at`` (the signer's claim), ``medmark``, ``key_id``,
        ``commitment_sha256``, ``evidence_checked``, ``timestamp`` (the authority's time, ISO 8601 in UTC, or None) and
        ``time_says``, a sentence on what the time is worth.

    Raises:
        MedmarkError: the first thing that does not hold.
    """
    commitment = read_commitment(commitment_file)
    check_signature(commitment, public_key)
    if release_digest is not None and release_digest != commitment.release_digest:
        raise MedmarkError(
            f"commitment to another release: {commitment.path} is about {commitment.release_digest}, not about"
            f" {release_digest!r:.80}; give the release and the commitment that belong together"
        )
    if evidence_dir is not None:
        _check_evidence(commitment, Path(evidence_dir))
    stamp = commitment.path.with_suffix(".tsr")
    stamped, time = stamp.is_file(), None
    if timestamp_roots is not None:
        token = read_small(stamp, "time stamp", "put the file that was written with the commitment beside it")
        time = verify_timestamp(token, commitment.data, timestamp_roots, stamp)
    return _result(commitment, evidence=evidence_dir is not None, stamped=stamped, time=time)


def reveal(commitment_file: str | Path, evidence_dir: str | Path, out_file: str | Path) -> dict:
    """Writes what a judge needs to check a commitment without the images of the evidence.

    The file holds the commitment, the salt and ``evidence.json``: digests, classes, counts, thresholds, and the seed, from
    which the key of the mark follows. So it is made readable by its owner only, and is for the judge alone.

    Args:
        commitment_file: that the evidence was committed to with.
        evidence_dir: the evidence, with ``opening.json``.
        out_file: must not exist.

    Returns:
        Its content.

    Raises:
        MedmarkError: something is missing, changed, or belongs to another commitment.
    """
    commitment, folder = read_commitment(commitment_file), Path(evidence_dir)
    data, salt = _check_evidence(commitment, folder)
    content = {
        "schema_version": REVEAL_SCHEMA_VERSION,
        "commitment": base64.b64encode(commitment.data).decode(),
        "salt": salt.hex(),
        "evidence": base64.b64encode(data).decode(),
    }
    write_new(out_file, canonical_json(content), 0o600)
    return content


def verify_reveal(file: str | Path, commitment_file: str | Path, public_key: Ed25519PublicKey) -> dict:
    """Checks what :func:`reveal` wrote against the commitment that was published.

    Args:
        file: of :func:`reveal`.
        commitment_file: as it was published.
        public_key: of the signer.

    Returns:
        As :func:`verify_commitment`, and ``evidence``, the content of ``evidence.json``: any evidence file can now be
        compared with the SHA-256 under ``files`` there.

    Raises:
        MedmarkError: the first thing that does not hold.
    """
    result = verify_commitment(commitment_file, public_key)
    commitment = read_commitment(commitment_file)
    data = read_small(file, "reveal", "ask its owner for it again")
    try:
        content = parse_exact(data)
        if set(content) != {"schema_version", "commitment", "salt", "evidence"}:
            raise ValueError("its fields are not those of a reveal")
        if content["schema_version"] != REVEAL_SCHEMA_VERSION:
            raise ValueError(f"this medmark reads version {REVEAL_SCHEMA_VERSION}")
        enclosed, salt, shown = (
            decode_exact(content["commitment"]),
            _salt(content["salt"]),
            decode_exact(content["evidence"]),
        )
    except (ValueError, TypeError) as error:
        raise MedmarkError(f"damaged reveal: {file} ({error}); ask its owner for it again") from error
    if enclosed != commitment.data:
        raise MedmarkError(f"reveal of another commitment: {file}; give the one made with {commitment.path}")
    if not _matches(commitment, salt, shown):
        raise MedmarkError(
            f"reveal does not open the commitment: {file}; its salt or evidence is not what was committed to"
        )
    evidence = _understood_evidence(shown, file)
    if subject_digest(evidence) != commitment.release_digest:
        raise MedmarkError(f"evidence of another release: {file}; the signer committed to what cannot be true")
    return result | {"evidence_checked": True, "evidence": evidence}


def read_commitment(path: str | Path) -> Commitment:
    """Reads a commitment without checking its signature.

    Raises:
        MedmarkError: it is missing, too large, or not a commitment as medmark writes it.
    """
    data = read_small(path, "commitment", "give the commitment.json that was published")
    return _understood(data, Path(path))


def _sign(key: Ed25519PrivateKey, path: Path, release: Subject, evidence_hmac: str, signed_at: str) -> Commitment:
    """A commitment that is not written yet."""
    predicate = {"evidence": {"hmac-sha256": evidence_hmac}, "signed_at": signed_at, "medmark": version("medmark")}
    return _understood(sign(key, "commitment", path, release, PREDICATE_TYPE, predicate).data, path)


def _understood(data: bytes, path: Path) -> Commitment:
    """The commitment in these bytes."""
    signed = understood(data, "commitment", path, PREDICATE_TYPE)
    predicate = signed.predicate
    try:
        if set(predicate) != {"evidence", "signed_at", "medmark"} or set(predicate["evidence"]) != {"hmac-sha256"}:
            raise ValueError("its statement has other fields than a commitment")
        evidence_hmac, medmark = predicate["evidence"]["hmac-sha256"], predicate["medmark"]
        for name, value, form in (("evidence_hmac", evidence_hmac, HEX), ("medmark", medmark, MEDMARK)):
            if not form.fullmatch(value):
                raise ValueError(f"its {name} is malformed")
        check_time(predicate["signed_at"])
    except (ValueError, TypeError, AttributeError) as error:
        damaged("commitment", path, str(error), error)
    return Commitment(**vars(signed), evidence_hmac=evidence_hmac, signed_at=predicate["signed_at"], medmark=medmark)


def _check_evidence(commitment: Commitment, folder: Path) -> tuple[bytes, bytes]:
    """Refuses evidence that is not what was committed to; bytes of ``evidence.json`` and the salt."""
    data = _read_evidence(folder)
    path, opening = folder / OPENING, _read_opening(folder / OPENING)
    same_evidence = hashlib.sha256(data).hexdigest() == opening["evidence_sha256"]
    same_commitment = opening["commitment_sha256"] == commitment.sha256
    salt = _salt(opening["salt"])
    if not _matches(commitment, salt, data):
        if not same_commitment:
            raise MedmarkError(
                f"opening of another commitment: {path} does not belong to {commitment.path}; give the commitment that was"
                " made with this evidence, or the evidence as it was then"
            )
        if not same_evidence:
            raise MedmarkError(
                f"evidence changed since the commitment: {folder / 'evidence.json'}; restore it from a backup"
            )
    if not (_matches(commitment, salt, data) and same_commitment and same_evidence):
        raise MedmarkError(f"opening does not open {commitment.path}: {path} was changed; restore it from a backup")
    evidence = read_evidence(folder)
    if subject_digest(evidence) != commitment.release_digest:
        raise MedmarkError(
            f"evidence of another release: {folder / 'evidence.json'}; the signer committed to what cannot be true"
        )
    return data, salt


def _read_evidence(folder: Path) -> bytes:
    """Bytes of ``evidence.json``, if the evidence is complete."""
    path = folder / "evidence.json"
    data = read_small(path, "evidence", "give the evidence folder of a finished mark-release")
    _understood_evidence(data, path)
    return data


def _understood_evidence(data: bytes, where: str | Path) -> dict:
    """Its content, once it is sure that an audit finds in it all that it needs."""
    try:
        evidence = parse_object(data)
        files = evidence["files"]
        if not HEX.fullmatch(subject_digest(evidence)):
            raise ValueError("no release digest")
        if not all(FILE.fullmatch(name) and HEX.fullmatch(digest) for name, digest in files.items()):
            raise ValueError("no digests of files")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MedmarkError(f"damaged evidence: {where} ({error}); restore the evidence folder from a backup") from error
    needed = NEEDED_OF_MODEL if "model_digest" in evidence else NEEDED
    missing = [name for name in needed if name not in files]
    if missing or not isinstance(evidence.get("thresholds"), dict):
        raise MedmarkError(
            f"incomplete evidence: {where} fixes no {missing[0] if missing else 'thresholds'}; use what a finished"
            " mark-release or mark-segmenter wrote"
        )
    return evidence


def subject_digest(evidence: dict) -> str:
    """The digest of what the evidence is about: a marked model, or a release."""
    return evidence["model_digest"] if "model_digest" in evidence else evidence["release_digest"]


def _read_opening(path: Path) -> dict:
    remedy = "restore it from a backup of the evidence"
    data = read_small(path, "opening", remedy)
    try:
        opening = parse_exact(data)
        if set(opening) != {"schema_version", "commitment_sha256", "evidence_sha256", "salt"}:
            raise ValueError("its fields are not those of an opening")
        if opening["schema_version"] != OPENING_SCHEMA_VERSION:
            raise ValueError(f"this medmark reads version {OPENING_SCHEMA_VERSION}")
        for name in ("commitment_sha256", "evidence_sha256", "salt"):
            if not HEX.fullmatch(opening[name]):
                raise ValueError(f"its {name} is malformed")
    except (ValueError, TypeError) as error:
        raise MedmarkError(f"damaged opening: {path} ({error}); {remedy}") from error
    return opening


def _salt(text: str) -> bytes:
    """Exactly 32 bytes: HMAC takes a shorter key and the same with zeros appended for one."""
    if not HEX.fullmatch(text):
        raise ValueError("its salt is malformed")
    return bytes.fromhex(text)


def _hmac(salt: bytes, data: bytes) -> str:
    return hmac.new(salt, data, hashlib.sha256).hexdigest()


def _matches(commitment: Commitment, salt: bytes, data: bytes) -> bool:
    return hmac.compare_digest(_hmac(salt, data), commitment.evidence_hmac)


def _result(commitment: Commitment, *, evidence: bool, stamped: bool, time: datetime | None) -> dict:
    claim = f"{commitment.signed_at} is only the signer's own claim"
    stamp = time.isoformat().replace("+00:00", "Z") if time else None
    if stamp:
        says = f"a time stamp authority saw the commitment at {stamp}"
    elif stamped:
        says = (
            f"{claim}, and the time stamp beside the commitment was not checked: give the authority's root certificates"
        )
    else:
        says = f"{claim}: there is no time stamp"
    return {
        "release_name": commitment.release_name,
        "release_digest": commitment.release_digest,
        "evidence_hmac": commitment.evidence_hmac,
        "signed_at": commitment.signed_at,
        "medmark": commitment.medmark,
        "key_id": commitment.signed_by,
        "commitment_sha256": commitment.sha256,
        "evidence_checked": evidence,
        "timestamp": stamp,
        "time_says": says,
    }
