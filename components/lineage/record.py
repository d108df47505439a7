"""The signed lineage of one release or marked model: ``lineage.json``.

It names the release before it by its digest and by the digest of its ``lineage.json``. So the newest release and the owner's public key
are enough to check all that came before.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from medmark.components.base.digests import HEX
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.release import Release
from medmark.components.evidence.marked_model import MarkedModel, read_subject
from medmark.components.lineage.commitment import verify_commitment
from medmark.components.lineage.dsse import (
    MEDMARK,
    TIME,
    Signed,
    check_signature,
    check_time,
    damaged,
    sign,
    understood,
)
from medmark.components.lineage.events import check_form, read_record
from medmark.components.lineage.files import read_small, refuse_existing, write_new

PREDICATE_TYPE = "urn:medmark:lineage:v1"
LINEAGE, COMMITMENT, TIMESTAMP = "lineage.json", "commitment.json", "commitment.tsr"
FIELDS = {"record", "parent_lineage_sha256", "commitment_sha256", "timestamp_sha256", "signed_at", "medmark"}


@dataclass(frozen=True)
class Lineage(Signed):
    """What a ``lineage.json`` says; trust nothing in it before its signature is checked.

    Attributes:
        record: content of the run's ``record.json``.
        parent_lineage_sha256: of the parent's ``lineage.json``; None for the first marked release.
        commitment_sha256, timestamp_sha256: of the files beside it; None if there are none.
        signed_at: UTC, as the signer claims.
        medmark: version that wrote it.
    """

    record: dict
    parent_lineage_sha256: str | None
    commitment_sha256: str | None
    timestamp_sha256: str | None
    signed_at: str
    medmark: str


def sign_lineage(
    release_dir: str | Path,
    record_file: str | Path,
    private_key: Ed25519PrivateKey,
    *,
    commitment: str | Path | None = None,
    parent: str | Path | None = None,
    images: bool = True,
    now: datetime | None = None,
) -> Lineage:
    """Signs where a release came from, and writes ``lineage.json`` into it.

    Args:
        release_dir: the marked release, or the folder of a marked model; all of it is checked first, with ``images``.
        record_file: ``record.json`` of the run that made it.
        private_key: see :func:`medmark.components.lineage.keys.load_private`.
        commitment: to this release's evidence, by the same key; copied into the release, with its time stamp.
        parent: the previous marked release with its ``lineage.json``, by the same key; for an updated release only.
        images: whether to check the images, too. What is signed is the release's digest, to which ``release.json`` is enough: without them
            they have to be checked before the release goes out, as publishing does.
        now: time of signing, with a time zone; the present time when None.

    Returns:
        What was written.

    Raises:
        MedmarkError: something is damaged, of another release or by another signer; a parent is missing or superfluous; or
            the release is signed already.
    """
    release, record = read_subject(release_dir), read_record(record_file)
    out = release.path / LINEAGE
    if os.path.lexists(out):
        raise refuse_existing(out)
    if images:
        release.verify()
    _check_subject(release, record, record_file)
    if (release.changes is None) != (parent is None):
        raise MedmarkError(
            f"an updated release needs its parent, a first one has none: {release.path};"
            f" {'give none' if parent else f'give the marked release {release.parent} with its lineage.json'}"
        )
    public_key = private_key.public_key()
    before = verify_lineage(parent, public_key) if parent is not None else None
    if before and before.release_digest != release.parent:
        raise MedmarkError(f"not the parent: {parent} is another release; give {release.parent}")
    sidecars = _sidecars(Path(commitment), release.digest, public_key) if commitment is not None else {}
    for name in (COMMITMENT, TIMESTAMP):
        there = _read_sidecar(release.path / name) if os.path.lexists(release.path / name) else None
        if there is not None and there != sidecars.get(name):
            raise MedmarkError(
                f"another file is in the release: {release.path / name}; give it with --commitment, or move it away"
            )
    predicate = {
        "record": record,
        "parent_lineage_sha256": before.sha256 if before else None,
        "commitment_sha256": _sha256(sidecars.get(COMMITMENT)),
        "timestamp_sha256": _sha256(sidecars.get(TIMESTAMP)),
        "signed_at": (now or datetime.now(UTC)).astimezone(UTC).strftime(TIME),
        "medmark": version("medmark"),
    }
    made = _understood(sign(private_key, "lineage", out, release, PREDICATE_TYPE, predicate).data, out)
    for name, data in sidecars.items():
        if not (release.path / name).exists():
            write_new(release.path / name, data, 0o644)
    write_new(out, made.data, 0o644)
    return made


def verify_lineage(release_dir: str | Path, public_key: Ed25519PublicKey) -> Lineage:
    """Checks the ``lineage.json`` of one release or marked model: signature, and that it is about this one. For the rest, and what came
    before, see :func:`medmark.components.lineage.chain.verify_chain`.

    Raises:
        MedmarkError: the first thing that does not hold.
    """
    release = read_subject(release_dir)
    lineage = read_lineage(release.path / LINEAGE)
    check_signature(lineage, public_key)
    if lineage.release_digest != release.digest:
        raise MedmarkError(f"lineage of another release: {lineage.path}; get it again as it was published")
    _check_subject(release, lineage.record, lineage.path)
    return lineage


def read_lineage(path: str | Path) -> Lineage:
    """Reads a ``lineage.json`` without checking its signature.

    Raises:
        MedmarkError: it is missing, too large, or not as medmark writes it.
    """
    return _understood(read_small(path, "lineage", "get the lineage.json that was published"), Path(path))


def _understood(data: bytes, path: Path) -> Lineage:
    signed = understood(data, "lineage", path, PREDICATE_TYPE)
    said = signed.predicate
    try:
        if set(said) != FIELDS:
            raise ValueError("its statement has other fields than a lineage")
        for name in ("parent_lineage_sha256", "commitment_sha256", "timestamp_sha256"):
            if said[name] is not None and not HEX.fullmatch(said[name]):
                raise ValueError(f"its {name} is malformed")
        if said["timestamp_sha256"] and not said["commitment_sha256"]:
            raise ValueError("a time stamp of no commitment")
        if not MEDMARK.fullmatch(said["medmark"]):
            raise ValueError("its medmark is malformed")
        check_time(said["signed_at"])
    except (ValueError, TypeError, AttributeError) as error:
        damaged("lineage", path, str(error), error)
    check_form(said["record"], path)
    return Lineage(**vars(signed), **said)


def _check_subject(release: Release | MarkedModel, record: dict, where: str | Path) -> None:
    if record["release_digest"] != release.digest or record["parent_digest"] != release.parent:
        raise MedmarkError(
            f"record of another release: {where} is not of {release.path}; take that of the run that made it"
        )


def _sidecars(path: Path, release_digest: str, public_key: Ed25519PublicKey) -> dict[str, bytes]:
    """The commitment and, if it has one, its time stamp, in the order in which to write them."""
    verify_commitment(path, public_key, release_digest=release_digest)
    stamp = path.with_suffix(".tsr")
    stamped = {TIMESTAMP: _read_sidecar(stamp)} if stamp.is_file() else {}
    return stamped | {COMMITMENT: _read_sidecar(path)}


def _read_sidecar(path: Path) -> bytes:
    return read_small(path, "file", "take the commitment, and what 'medmark commit' wrote with it")


def _sha256(data: bytes | None) -> str | None:
    return hashlib.sha256(data).hexdigest() if data is not None else None
