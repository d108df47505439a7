"""Drawing a mark's key so that nobody can choose it, and checking that it was drawn so.

The key test holds only if the key was drawn uniformly. An owner who draws alone could draw until a key suits. So the owner makes a
*drawing* first: a random secret in a private file, and a public commitment to it. A time stamp authority signs the commitment. The
key follows from the secret and from a value that came after it: the authority's signature, or what a public beacon gave, if the
commitment named that beacon. ``draw.json`` in the evidence holds all of it, so that whoever has the evidence can check it.

This does not show how many drawings an owner made, or how many time stamps of one: each is a new try.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medmark.components.base.digests import HEX, canonical_json
from medmark.components.base.errors import MedmarkError
from medmark.components.delivery.places import Places
from medmark.components.evidence.draw import DRAW, SECRET_BYTES, DerivedKey, Draw, derived_key
from medmark.components.evidence.evidence import read_evidence
from medmark.components.lineage.files import decode_exact, parse_exact, read_small, refuse_existing, write_new
from medmark.components.lineage.timestamp import Stamp, read_stamp, verify_timestamp

DRAWING_SCHEMA_VERSION = 1
DRAW_SCHEMA_VERSION = 1
DOMAIN = b"medmark drawing, version 1\n"
MAX_VALUE = 1 << 16  # bytes of a beacon's value; arbitrary, a pulse has some kB
MAX_BEACON = 200  # characters of a beacon's name; arbitrary
TIME_STAMP, BEACON = "time stamp", "beacon"
SELF_DRAWN = "the owner drew the key alone; nothing shows that it did not draw until one suited"


@dataclass(frozen=True)
class Drawing:
    """A secret and its public commitment, made before the value that completes it.

    Attributes:
        secret: 32 random bytes.
        commitment: text of the public file, which an authority stamps.
        beacon: the public beacon whose value completes the drawing, and its round or time; None: the time stamp does.
    """

    secret: bytes
    commitment: str
    beacon: str | None


@dataclass(frozen=True)
class Drawn:
    """What is known of how a key was drawn.

    Attributes:
        drawn: ``verifiable``: from a secret that was committed to and a later value that nobody controls, both checked; else
            ``self``.
        says: a sentence for people: what was checked, and what is left open.
    """

    drawn: Literal["verifiable", "self"]
    says: str


def new_drawing(file: str | Path, *, beacon: str | None = None) -> Path:
    """Makes a drawing: a private file, and beside it the public commitment, to be stamped by an authority.

    Args:
        file: private file to write; its name must end in ``.json``.
        beacon: name of a public beacon and its round or time, which must be in the future, as auditors will look it up: one
            printable line of at most 200 characters. None: the time stamp itself completes the drawing.

    Returns:
        The public file, see :func:`commitment_of`.

    Raises:
        MedmarkError: a file exists or cannot be written, or the beacon's name is no such line.
    """
    file = Path(file)
    if file.suffix != ".json" or not file.parent.is_dir():
        raise MedmarkError(
            f"drawing cannot be written to {file}; give a name that ends in .json, in a folder that exists"
        )
    public = commitment_of(file)
    for path in (file, public, stamp_of(file)):
        if os.path.lexists(path):
            raise refuse_existing(path)
    if beacon is not None and not _is_name(beacon):
        raise MedmarkError(
            f"not the name of a beacon: {beacon[:MAX_BEACON]!r}; give one printable line of at most {MAX_BEACON} characters"
        )
    secret = secrets.token_bytes(SECRET_BYTES)
    content = {"schema_version": DRAWING_SCHEMA_VERSION, "secret_sha256": _commitment_to(secret), "beacon": beacon}
    commitment = canonical_json(content)
    private = {"schema_version": DRAWING_SCHEMA_VERSION, "secret": secret.hex(), "commitment": commitment.decode()}
    write_new(file, canonical_json(private), 0o600)
    write_new(public, commitment, 0o644)
    return public


def commitment_of(file: str | Path) -> Path:
    """The public file beside a drawing: ``NAME.commitment.json`` beside ``NAME.json``."""
    return Path(file).with_suffix(".commitment.json")


def stamp_of(file: str | Path) -> Path:
    """Where the time stamp of a drawing's commitment is expected: ``NAME.commitment.tsr`` beside ``NAME.json``."""
    return Path(file).with_suffix(".commitment.tsr")


def read_drawing(file: str | Path) -> Drawing:
    """What :func:`new_drawing` wrote.

    Raises:
        MedmarkError: it is missing or damaged.
    """
    remedy = "restore it from a backup, or make a new one with 'medmark keys draw'"
    data = read_small(file, "drawing", remedy)
    try:
        content = parse_exact(data)
        if set(content) != {"schema_version", "secret", "commitment"}:
            raise ValueError("its fields are not those of a drawing")
        if content["schema_version"] != DRAWING_SCHEMA_VERSION:
            raise ValueError(f"this medmark reads version {DRAWING_SCHEMA_VERSION}")
        return _opened(content["secret"], content["commitment"])
    except (ValueError, TypeError, AttributeError) as error:
        raise MedmarkError(f"damaged drawing: {file} ({error}); {remedy}") from error


def complete(drawing_file: str | Path, value_file: str | Path) -> Draw:
    """Draws the key: completes a drawing with the value that came after it.

    Nobody is asked whether to trust the authority; :func:`check_draw` does that.

    Args:
        drawing_file: of :func:`new_drawing`. If it names a beacon, the time stamp is beside it, see :func:`stamp_of`: without one
            nothing would show that the secret was there before the beacon's value.
        value_file: the time stamp (RFC 3161, DER) of the drawing's commitment; if the drawing names a beacon, what that gave, as
            others can get it too: any file of at most 64 KiB.

    Raises:
        MedmarkError: a file is missing, damaged or too large, or the time stamp is of something else.
    """
    drawing = read_drawing(drawing_file)
    if drawing.beacon is None:
        value, stamp = _read_value(value_file, "time stamp of the drawing"), None
    else:
        value = _read_beacon(value_file)
        have = "have the drawing's commitment stamped before the beacon gives its value, and put the answer there"
        stamp = read_small(stamp_of(drawing_file), "time stamp of the drawing", have)
    content = {
        "schema_version": DRAW_SCHEMA_VERSION,
        "kind": TIME_STAMP if drawing.beacon is None else BEACON,
        "secret": drawing.secret.hex(),
        "commitment": drawing.commitment,
        "value": base64.b64encode(value).decode(),
        "time_stamp": None if stamp is None else base64.b64encode(stamp).decode(),
    }
    text = canonical_json(content).decode()
    where = value_file if stamp is None else stamp_of(drawing_file)
    return Draw(text, _Read.of(text.encode(), where).key)


def complete_places(drawing: str, value: str) -> Draw:
    """As :func:`complete`, with paths or addresses ``s3://bucket/name`` that the credentials for evidence open."""
    with Places() as places:
        file = places.read(drawing, raw=True, private=True, beside=lambda _: [stamp_of(drawing).name])
        draw = complete(file, places.read(value, raw=True, private=True))
    return draw


def check_draw(
    evidence_dir: str | Path, *, timestamp_roots: str | Path | None = None, beacon: str | Path | None = None
) -> Drawn:
    """Checks how the key of some evidence was drawn.

    Args:
        evidence_dir: the evidence.
        timestamp_roots: PEM file with the root certificates of the authority that stamped the drawing.
        beacon: file with the beacon's value, as the auditor got it from the beacon itself.

    Returns:
        ``verifiable`` only if the seed of the evidence, or a segmenter's ``mark_key``, follows from its ``draw.json``, an authority that ``timestamp_roots`` knows
        stamped the commitment, and, where the commitment names a beacon, the value is the auditor's own.

    Raises:
        MedmarkError: ``draw.json`` claims what does not hold: it is damaged, another seed follows from it, its time stamp does not
            hold, or the beacon's value is another one; or there is no beacon in it to compare with.
    """
    evidence, path = read_evidence(evidence_dir), Path(evidence_dir) / DRAW
    if DRAW not in evidence["files"]:
        if beacon is not None:
            raise MedmarkError(
                f"no beacon to compare with: the key of {evidence_dir} is self-drawn; leave the value out"
            )
        return Drawn("self", SELF_DRAWN)
    draw = _Read.of(read_small(path, "draw of the key", "restore it from a backup of the evidence"), path)
    # a segmenter's mark is made from mark_key alone, a release's from the seed
    what, follows = ("mark_key", draw.key.mark_key) if "mark_key" in evidence else ("seed", draw.key.seed)
    if evidence.get(what) != follows:
        raise MedmarkError(
            f"the key was not drawn as {path} says: another {what} follows from it than evidence.json has; restore the evidence"
            " from a backup, and do not believe a claim that rests on it"
        )
    named = draw.drawing.beacon
    if beacon is not None:
        if named is None:
            raise MedmarkError(f"no beacon to compare with: {path} was completed by a time stamp; leave the value out")
        if _read_beacon(beacon) != draw.value:
            raise MedmarkError(
                f"the beacon gave another value: {beacon} is not what {path} says {named!r} gave; get the value of that"
                " round from the beacon itself"
            )
    if timestamp_roots is not None:
        verify_timestamp(draw.stamp_token, draw.drawing.commitment.encode(), timestamp_roots, path)
    return _judged(draw, stamped=timestamp_roots is not None, compared=beacon is not None)


def _judged(draw: _Read, *, stamped: bool, compared: bool) -> Drawn:
    """What to say of a draw whose seed follows from it."""
    named, stamp = draw.drawing.beacon, draw.stamp
    seen = f"stamp {stamp.serial:#x} of {stamp.time.isoformat().replace('+00:00', 'Z')}"
    unchecked = [] if stamped else ["that stamp was not checked: give the authority's root certificates"]
    if named is not None and not compared:
        unchecked.append("the beacon's value was not compared: give what the beacon itself says")
    rests = f"a drawing with {seen}" + (f" and on what {named!r} gave" if named is not None else "")
    if unchecked:
        return Drawn(
            "self", f"the key is said to rest on {rests}, and follows from that, but {', and '.join(unchecked)}"
        )
    if named is None:
        return Drawn(
            "verifiable",
            f"the key rests on {rests}, which nobody but its authority can choose; but a stamp can be asked for again, and another drawing"
            " made, each of them a new try: ask for a drawing that was published when it was made",
        )
    return Drawn(
        "verifiable",
        f"the key rests on {rests}, and a beacon cannot be asked again; but check that it gave that after the time of the stamp,"
        " and that there was one drawing only: ask for one that was published when it was made",
    )


@dataclass(frozen=True)
class _Read:
    """A ``draw.json`` whose parts go together.

    Attributes:
        drawing: secret and commitment.
        value: the time stamp, or what the beacon gave.
        stamp_token: the time stamp in DER.
        stamp: what it says.
        key: what follows.
    """

    drawing: Drawing
    value: bytes
    stamp_token: bytes
    stamp: Stamp
    key: DerivedKey

    @classmethod
    def of(cls, data: bytes, where: str | Path) -> _Read:
        """Reads it.

        Raises:
            MedmarkError: it is damaged, or its time stamp is of something else.
        """
        try:
            content = parse_exact(data)
            if set(content) != {"schema_version", "kind", "secret", "commitment", "value", "time_stamp"}:
                raise ValueError("its fields are not those of a draw")
            if content["schema_version"] != DRAW_SCHEMA_VERSION:
                raise ValueError(f"this medmark reads version {DRAW_SCHEMA_VERSION}")
            drawing, value = _opened(content["secret"], content["commitment"]), decode_exact(content["value"])
            by_beacon = drawing.beacon is not None
            if content["kind"] != (BEACON if by_beacon else TIME_STAMP) or (content["time_stamp"] is None) == by_beacon:
                raise ValueError("its kind is not the one that the commitment names")
            if by_beacon and not 0 < len(value) <= MAX_VALUE:
                raise ValueError("the beacon's value is empty or too large")
            token = decode_exact(content["time_stamp"]) if by_beacon else value
        except (ValueError, TypeError, AttributeError) as error:
            raise MedmarkError(
                f"damaged draw of the key: {where} ({error}); restore it from a backup of the evidence"
            ) from error
        stamp = read_stamp(token, drawing.commitment.encode(), where)
        return cls(drawing, value, token, stamp, derived_key(drawing.secret, value if by_beacon else stamp.signature))


def _opened(secret: str, commitment: str) -> Drawing:
    """A drawing whose secret opens its commitment.

    Raises:
        ValueError, TypeError or AttributeError: it does not, or something is malformed.
    """
    if not HEX.fullmatch(secret):
        raise ValueError("its secret is malformed")
    public = parse_exact(commitment.encode())
    if (
        set(public) != {"schema_version", "secret_sha256", "beacon"}
        or public["schema_version"] != DRAWING_SCHEMA_VERSION
    ):
        raise ValueError("its commitment is malformed")
    if public["beacon"] is not None and not _is_name(public["beacon"]):
        raise ValueError("the name of its beacon is malformed")
    if public["secret_sha256"] != _commitment_to(bytes.fromhex(secret)):
        raise ValueError("its secret does not open its commitment")
    return Drawing(bytes.fromhex(secret), commitment, public["beacon"])


def _commitment_to(secret: bytes) -> str:
    return hashlib.sha256(DOMAIN + secret).hexdigest()


def _is_name(beacon: str) -> bool:
    return 0 < len(beacon.strip()) <= len(beacon) <= MAX_BEACON and beacon.isprintable()


def _read_value(file: str | Path, what: str) -> bytes:
    return read_small(file, what, "give the file that the drawing was completed with")


def _read_beacon(file: str | Path) -> bytes:
    value = _read_value(file, "value of the beacon")
    if not 0 < len(value) <= MAX_VALUE:
        raise MedmarkError(
            f"value of the beacon is empty or larger than {MAX_VALUE} bytes: {file}; give one round's value"
        )
    return value
