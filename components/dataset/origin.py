"""Where the images of a release came from: private, kept so that the next update decodes only what changed.

The folder holds ``sources.parquet`` (a row an image: id, name in the source, SHA-256 of the raw file and of the image as
encoded without a mark; a source's CSV has a row without id), ``patients.json`` (the key of the pseudonyms) and, after updates
that took images away, ``past.json`` (keyed digests of their pixels). What is kept for updates may hold ``held_back.json`` besides, the
images that are never published. Names and key give patients away: the folder never goes
where the release goes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from medmark.components.base.digests import canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.base.text import reason_of
from medmark.components.dataset.pseudonyms import read_key

SOURCES = pa.schema(
    [("image_id", pa.string()), ("source", pa.string()), ("sha256", pa.string()), ("image_sha256", pa.string())]
)
PAST = "past.json"
FORMER = "former.json"
HELD_BACK = "held_back.json"
REJECTED = "rejected.parquet"  # names and reasons of what was set aside


@dataclass(frozen=True)
class Origin:
    """Where one image came from.

    Attributes:
        image_id: in the release; None for a CSV.
        source: name inside the source.
        sha256: hex digest of the raw file.
        image_sha256: hex digest of the image as encoded, before any mark; None for a CSV.
    """

    image_id: str | None
    source: str
    sha256: str
    image_sha256: str | None

    @classmethod
    def of_table(cls, path: Path) -> Origin:
        """Makes the origin of a source's CSV."""
        return cls(None, path.name, file_sha256(path), None)


@dataclass(frozen=True)
class Former:
    """What is known of a run's ids before they were made anew, see :mod:`medmark.components.poisoning.reissue`.

    Attributes:
        key: former key of the pseudonyms; None if they were made elsewhere.
        tombstones: former ids of all images that were withdrawn.
    """

    key: str | None
    tombstones: list[str]

    def patient(self, patient: str) -> str:
        """Returns the former pseudonym of a patient, as release schema version 1 made it."""
        if self.key is None:
            return patient
        return hashlib.blake2b(patient.encode(), key=self.key.encode(), digest_size=8).hexdigest()

    def withdrew(self, name: str) -> bool:
        """Whether the image of this name was withdrawn; schema version 1 made its id of the stem and an unkeyed hash."""
        stem = re.sub(r"[^A-Za-z0-9-]+", "-", Path(name).stem).strip("-")[:80] or "image"
        data = name.encode(errors="surrogateescape")
        return f"{stem}-{hashlib.sha256(data).hexdigest()[:8]}" in self.tombstones


def drop_digest(origins: Iterable[Origin], patient_key: str | None) -> str:
    """Makes the public digest of a raw drop: HMAC-SHA256 under the patients' key of the lines ``<sha256>  <source>``, sorted by
    source. Without a key, a guess of a drop's names and files could be confirmed.

    Args:
        origins: of all files.
        patient_key: key of the HMAC. None for a source whose names are public and for runs before release schema 2: SHA-256
            of the lines.
    """
    lines = sorted((origin.source, origin.sha256) for origin in origins)
    text = "".join(f"{sha256}  {source}\n" for source, sha256 in lines)
    data = text.encode(errors="surrogateescape")
    if patient_key is None:
        return hashlib.sha256(data).hexdigest()
    return hmac.new(patient_key.encode(), b"medmark-drop\n" + data, hashlib.sha256).hexdigest()


def past_digest(image_sha256: str, patient_key: str | None) -> str:
    """Makes the digest by which pixels that are no longer published are known again, and nothing else is told.

    Args:
        image_sha256: SHA-256 of the image as encoded without a mark, hex.
        patient_key: see :func:`write_origins`.
    """
    key = (patient_key or "").encode()
    return hashlib.blake2b(image_sha256.encode(), key=key, digest_size=32, person=b"medmark-past").hexdigest()


def write_origins(
    folder: str | Path,
    origins: list[Origin],
    *,
    patient_key: str | None,
    past: dict[str, str | None] | None = None,
    former: Former | None = None,
) -> None:
    """Writes the private folder, readable by its owner only.

    Args:
        folder: folder to make.
        origins: of all images and of the CSV, if there is one.
        patient_key: key of the pseudonyms; None if the source was a release, whose pseudonyms were made elsewhere.
        past: pixels that some release had and this one has not: their :func:`past_digest`, and the image that had them, None if
            it was withdrawn.
        former: what is known of the ids before they were made anew, or None.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    os.chmod(folder, 0o700)
    table = pa.Table.from_pylist([asdict(origin) for origin in origins], schema=SOURCES)
    pq.write_table(table, folder / "sources.parquet", compression="zstd")
    (folder / "patients.json").write_bytes(canonical_json({"key": patient_key}))
    if past:
        (folder / PAST).write_bytes(canonical_json(past))
    if former:
        (folder / FORMER).write_bytes(canonical_json(asdict(former)))


def read_origins(folder: str | Path) -> list[Origin]:
    """Reads the origins that :func:`write_origins` wrote.

    Raises:
        MedmarkError: missing or damaged.
    """
    path = Path(folder) / "sources.parquet"
    try:
        return [Origin(**row) for row in pq.read_table(path, schema=SOURCES).to_pylist()]
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = reason_of(error)
        raise MedmarkError(f"unreadable: {path} ({reason}); restore the folder from a backup") from error


def read_patient_key(folder: str | Path) -> str | None:
    """Reads the key of the pseudonyms; None if they were made elsewhere.

    Raises:
        MedmarkError: missing or damaged.
    """
    return read_key(Path(folder) / "patients.json")


def read_past(folder: str | Path) -> dict[str, str | None]:
    """Reads what :func:`write_origins` got as ``past``; empty if no update took anything away.

    Raises:
        MedmarkError: damaged.
    """
    path = Path(folder) / PAST
    if not path.exists():
        return {}
    try:
        past = json.loads(path.read_bytes())
        if not isinstance(past, dict) or not all(owner is None or isinstance(owner, str) for owner in past.values()):
            raise ValueError("no list of digests")
        return past
    except (OSError, ValueError, RecursionError) as error:
        raise MedmarkError(f"unreadable: {path} ({error}); restore the folder from a backup") from error


def read_former(folder: str | Path) -> Former | None:
    """Reads what :func:`write_origins` got as ``former``; None if the ids were never made anew.

    Raises:
        MedmarkError: damaged.
    """
    path = Path(folder) / FORMER
    if not path.exists():
        return None
    try:
        former = Former(**json.loads(path.read_bytes()))
        if not (former.key is None or isinstance(former.key, str)) or not isinstance(former.tombstones, list):
            raise ValueError("no key and list of ids")
        return former
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise MedmarkError(f"unreadable: {path} ({error}); restore the folder from a backup") from error


def write_held_back(folder: str | Path, held_back: dict[str, str]) -> None:
    """Writes which images are never published: the patient of each, by id."""
    (Path(folder) / HELD_BACK).write_bytes(canonical_json(held_back))


def read_held_back(folder: str | Path) -> dict[str, str]:
    """Reads what :func:`write_held_back` wrote; empty if nobody is held back.

    Raises:
        MedmarkError: damaged.
    """
    path = Path(folder) / HELD_BACK
    if not path.exists():
        return {}
    try:
        held_back = json.loads(path.read_bytes())
        if not isinstance(held_back, dict) or not all(isinstance(patient, str) for patient in held_back.values()):
            raise ValueError("no patients by image")
        return held_back
    except (OSError, ValueError, RecursionError) as error:
        raise MedmarkError(f"unreadable: {path} ({error}); restore the folder from a backup") from error
