"""What the owner keeps for the next update, apart from the evidence: an auditor needs nothing of it.

``keep.json`` names the SHA-256 of every other file: ``sources.parquet``, ``patients.json`` and maybe ``past.json`` (see
:mod:`medmark.components.dataset.origin`), ``held_back.json`` if somebody is held back, ``surrogates/``, the classifiers whose saliency confines the mark,
``originals.parquet``, the marked images without their mark, so that a correction of one can be published like that of any
other, and, after a run that set images aside, ``rejected.parquet``: their names and reasons may name patients.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from medmark.components.base.atomic import write_atomic
from medmark.components.base.digests import canonical_json, first_changed, folder_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.origin import FORMER, PAST, REJECTED, write_held_back
from medmark.components.dataset.release import Release
from medmark.components.evidence.evidence import read_evidence
from medmark.components.evidence.ledger import read_ledger

KEEP_SCHEMA_VERSION = 1
KEEP = "keep.json"
SURROGATES = "surrogates"
ORIGINALS = "originals.parquet"  # not there before medmark kept them
ORIGINALS_SCHEMA = pa.schema(
    [("image_id", pa.string()), ("image", pa.binary()), ("first", pa.binary()), ("first_published", pa.binary())]
)


@dataclass(frozen=True)
class Original:
    """A marked image without its mark, as encoded.

    Attributes:
        image_id: in the release.
        image: what would be published now if it were not marked.
        first, first_published: the same when it was marked, without and with the mark; None if it was never corrected.
    """

    image_id: str
    image: bytes
    first: bytes | None = None
    first_published: bytes | None = None


def keep_for_updates(
    clean_dir: str | Path,
    release_dir: str | Path,
    evidence_dir: str | Path,
    origin_dir: str | Path,
    surrogates_dir: str | Path,
    out: str | Path,
) -> dict[str, Any]:
    """Writes the folder after a first marking.

    Args:
        clean_dir: the release that was marked.
        release_dir: the marked release.
        evidence_dir: its evidence.
        origin_dir, surrogates_dir, out: see :func:`write_keep`.

    Returns:
        The content of ``keep.json``.
    """
    release, evidence = Release(release_dir), read_evidence(evidence_dir)
    training = release.counts["train"]
    of_target = training[evidence["target_class"]]
    shares = {
        "mark": evidence["marked_images"] / of_target,
        "decoy": evidence["decoy_images"] / (sum(training.values()) - of_target),
    }
    wanted = {row["image_id"] for row in read_ledger(evidence_dir, ["image_id"])}
    clean = Release(clean_dir).records("train", columns=["image_id", "image"])
    originals = (Original(record.image_id, record.image) for record in clean if record.image_id in wanted)
    published = {record.image_id for record in release.records(columns=["image_id"])}
    held_back = {
        record.image_id: record.patient_id
        for record in Release(clean_dir).records(columns=["image_id", "patient_id"])
        if record.image_id not in published
    }
    return write_keep(
        out,
        origin_dir,
        surrogates_dir,
        originals=originals,
        release_digest=release.digest,
        shares=shares,
        held_back=held_back,
    )


def write_keep(
    out: str | Path,
    origin_dir: str | Path,
    surrogates_dir: str | Path,
    *,
    originals: Iterable[Original] | None = None,
    release_digest: str,
    shares: dict[str, float],
    held_back: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Writes the folder, readable by its owner only.

    Args:
        out: folder to make.
        origin_dir: where the images came from.
        surrogates_dir: benign classifiers; the first one's saliency is used.
        originals: of every marked image; None: unknown since an earlier medmark.
        release_digest: of the marked release.
        shares: ``mark``: of the training images of the target class, ``decoy``: of those of the other classes.
        held_back: patient of each image that is never published.

    Returns:
        The content of ``keep.json``.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    os.chmod(out, 0o700)
    for name in ("sources.parquet", "patients.json", PAST, FORMER, REJECTED):
        if name not in (PAST, FORMER, REJECTED) or (Path(origin_dir) / name).exists():
            shutil.copyfile(Path(origin_dir) / name, out / name)
    if held_back:
        write_held_back(out, held_back)
    (out / SURROGATES).mkdir(exist_ok=True)
    for path in sorted(Path(surrogates_dir).iterdir()):
        if path.name == "models.json" or path.suffix == ".safetensors":
            shutil.copyfile(path, out / SURROGATES / path.name)
    if originals is not None:
        with pq.ParquetWriter(out / ORIGINALS, ORIGINALS_SCHEMA, compression="zstd") as writer:
            for original in originals:
                writer.write_table(pa.Table.from_pylist([asdict(original)], schema=ORIGINALS_SCHEMA))
    keep = {
        "schema_version": KEEP_SCHEMA_VERSION,
        "release_digest": release_digest,
        "shares": shares,
        "files": folder_sha256(out, without=KEEP),
    }
    write_atomic(out / KEEP, canonical_json(keep))
    return keep


def surrogates_in(folder: str | Path) -> Path:
    """Where the surrogates are in a keep; the folder itself if it is none, but one of models."""
    return Path(folder) / SURROGATES if (Path(folder) / KEEP).is_file() else Path(folder)


def read_originals(directory: str | Path) -> Iterable[Original] | None:
    """What :func:`write_keep` got as ``originals``, streamed; None if they are unknown.

    Raises:
        MedmarkError: the file is damaged.
    """
    path = Path(directory) / ORIGINALS
    return _originals(path) if path.exists() else None


def _originals(path: Path) -> Iterable[Original]:
    try:
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=16):
                yield from (Original(**row) for row in batch.to_pylist())
    except (OSError, TypeError, pa.ArrowException) as error:
        raise MedmarkError(f"unreadable: {path} ({error}); restore the folder from a backup") from error


def read_keep(directory: str | Path) -> dict[str, Any]:
    """Content of ``keep.json``, after checking every file it names.

    Raises:
        MedmarkError: something is missing or changed.
    """
    directory = Path(directory)
    path = directory / KEEP
    try:
        keep = json.loads(path.read_bytes())
        version, files = keep["schema_version"], dict(keep["files"])
        if not all(0 <= float(keep["shares"][role]) <= 1 for role in ("mark", "decoy")):
            raise ValueError("shares are not between 0 and 1")
        if not {"sources.parquet", "patients.json", f"{SURROGATES}/models.json"} <= files.keys():
            raise ValueError("it does not name all files")
        str(keep["release_digest"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise MedmarkError(f"no readable keep.json: {path} ({error}); restore the folder from a backup") from error
    if version != KEEP_SCHEMA_VERSION:
        raise MedmarkError(f"unknown version {version!r}: {path}; this medmark reads {KEEP_SCHEMA_VERSION}")
    if (file := first_changed(directory, files)) is not None:
        raise MedmarkError(f"changed or missing: {file}; restore the folder from a backup")
    return keep
