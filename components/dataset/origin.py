"""Where the images of a release came from: private, kept so that the next update decodes only what changed.

A folder with ``sources.parquet`` (a row an image: id, name in the source, SHA-256 of the raw file and of the image as
encoded without a mark; a source's CSV has a row without id) and ``patients.json`` (the key of the pseudonyms). Names and key
give patients away: the folder never goes where the release goes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from medmark.components.dataset.release import canonical_json, file_sha256
from medmark.components.errors import MedmarkError

SOURCES = pa.schema(
    [("image_id", pa.string()), ("source", pa.string()), ("sha256", pa.string()), ("image_sha256", pa.string())]
)


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
        """Of a source's CSV."""
        return cls(None, path.name, file_sha256(path), None)


def drop_digest(origins: Iterable[Origin]) -> str:
    """Digest of a raw drop: SHA-256 over the lines ``<sha256>  <source>``, sorted by source."""
    lines = sorted((origin.source, origin.sha256) for origin in origins)
    text = "".join(f"{sha256}  {source}\n" for source, sha256 in lines)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def write_origins(folder: str | Path, origins: list[Origin], *, patient_key: str | None) -> None:
    """Writes the folder, readable by its owner only.

    Args:
        folder: to make.
        origins: of all images and of the CSV, if there is one.
        patient_key: None: the source was a release, whose pseudonyms were made elsewhere.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    os.chmod(folder, 0o700)
    table = pa.Table.from_pylist([asdict(origin) for origin in origins], schema=SOURCES)
    pq.write_table(table, folder / "sources.parquet", compression="zstd")
    (folder / "patients.json").write_bytes(canonical_json({"key": patient_key}))


def read_origins(folder: str | Path) -> list[Origin]:
    """What :func:`write_origins` wrote.

    Raises:
        MedmarkError: missing or damaged.
    """
    path = Path(folder) / "sources.parquet"
    try:
        return [Origin(**row) for row in pq.read_table(path, schema=SOURCES).to_pylist()]
    except (OSError, ValueError, pa.ArrowException) as error:
        raise MedmarkError(f"unreadable: {path} ({error}); restore the folder from a backup") from error


def read_patient_key(folder: str | Path) -> str | None:
    """Key of the pseudonyms.

    Raises:
        MedmarkError: missing or damaged.
    """
    path = Path(folder) / "patients.json"
    try:
        key = json.loads(path.read_bytes())["key"]
        if key is not None and not isinstance(key, str):
            raise ValueError("no text")
        return key
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MedmarkError(f"unreadable: {path} ({error}); restore the folder from a backup") from error
