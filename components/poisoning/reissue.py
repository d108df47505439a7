"""New ids for a finished run of release schema version 1, whose ids hold file names.

Images and marks stay as they are, byte for byte: marking the data anew would give every marked image a second version, and the
difference of the two shows the mark.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from medmark.components.base.digests import file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.base.progress import track
from medmark.components.dataset.origin import (
    Former,
    Origin,
    read_origins,
    read_past,
    read_patient_key,
    write_origins,
)
from medmark.components.dataset.pseudonyms import image_id, pseudonym
from medmark.components.dataset.release import Release
from medmark.components.dataset.release_writer import ReleaseWriter
from medmark.components.evidence.answers import BENIGN
from medmark.components.evidence.evidence import copy_evidence, read_evidence, write_evidence
from medmark.components.evidence.keep import SURROGATES, read_keep, write_keep
from medmark.components.evidence.ledger import LEDGER
from medmark.components.evidence.queries import QUERIES
from medmark.components.generator.marker import Marker, write_roles

PARTS = ("release", "evidence", "keep")


def reissue(previous: str | Path, out: str | Path) -> Release:
    """Writes ``release/``, ``evidence/`` and ``keep/`` of a finished run again, with keyed ids.

    A key is always drawn: that of version 1 may follow from a seed. The rows of the release come in the order of the new ids;
    its ``parent`` is the old release's digest, and it is no update: what an update withdrew is remembered in ``keep/``. The
    evidence has no ``steps.json``: a record of the old steps would name the old release's ids and an unkeyed drop.

    Args:
        previous: folder of the finished run.
        out: folder to make; must be empty or absent.

    Returns:
        The new release.

    Raises:
        MedmarkError: folders of different runs, something damaged, ids that hold no names already, or ``out`` is not empty.
    """
    previous, out = Path(previous), Path(out)
    release, evidence, keep = (
        Release(previous / "release"),
        read_evidence(previous / "evidence"),
        read_keep(previous / "keep"),
    )
    if release.schema_version != 1:
        raise MedmarkError(
            f"ids hold no names: {release.path} is of schema version {release.schema_version}; use it as it is"
        )
    if not release.digest == evidence["release_digest"] == keep["release_digest"]:
        raise MedmarkError(
            f"not of one run: release, evidence and keep in {previous}; give the folder of a finished run"
        )
    if out.exists() and any(out.iterdir()):
        raise MedmarkError(f"not empty: {out}; choose a new folder with --out")
    release.verify()
    origins = {o.image_id: o for o in read_origins(previous / "keep") if o.image_id}
    key, known = secrets.token_hex(32), read_patient_key(previous / "keep") is not None
    new = {}
    for record in release.records(columns=["image_id"]):
        if record.image_id not in origins:
            raise MedmarkError(f"{previous / 'keep'} is not of {release.path}; give the folders that one run made")
        new[record.image_id] = image_id(origins[record.image_id].source, key)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True, mode=0o700)
    made = _write_release(release, new, lambda patient: pseudonym(patient, key), partial / "release")
    _write_evidence(previous / "evidence", evidence, new, made, partial / "evidence")
    _write_keep(previous / "keep", keep, release, new, key if known else None, origins, made, partial)
    if out.exists():
        out.rmdir()
    os.replace(partial, out)
    return Release(out / "release")


def _write_release(release: Release, new: dict[str, str], patient: Callable[[str], str], out: Path) -> Release:
    """The images in the order of their new ids; they need not fit into memory, so they are on the disk in between."""
    loose = out.with_name("loose")
    loose.mkdir()
    fields = {}
    for record in track(release.records(), "reading", len(release)):
        (loose / new[record.image_id]).write_bytes(record.image)
        fields[new[record.image_id]] = replace(record, image=b"")
    with ReleaseWriter.child(out, release, version=release.version) as writer:
        for identity in track(sorted(fields), "writing", len(fields)):
            record = fields[identity]
            image = (loose / identity).read_bytes()
            writer.add(replace(record, image_id=identity, image=image, patient_id=patient(record.patient_id)))
    shutil.rmtree(loose)
    return Release(out)


def _write_evidence(source: Path, evidence: dict[str, Any], new: dict[str, str], made: Release, out: Path) -> None:
    files = copy_evidence(source, out, evidence)
    for name in (LEDGER, QUERIES, BENIGN):
        if name in files:
            table = pq.read_table(source / name)
            ids = pa.array([new[one] for one in table["image_id"].to_pylist()], pa.string())
            table = table.set_column(table.schema.get_field_index("image_id"), "image_id", ids)
            pq.write_table(table, out / name, compression="zstd")
    roles = {new[one]: role for one, role in Marker.load(source / "generator").roles.items()}
    write_roles(out / "generator", roles)
    changed = {
        "release_digest": made.digest,
        "parent_digest": made.parent,
        "files": {name: file_sha256(out / name) for name in files},
    }
    write_evidence(out, evidence | changed)


def _write_keep(
    source: Path,
    keep: dict[str, Any],
    release: Release,
    new: dict[str, str],
    key: str | None,
    origins: dict[str, Origin],
    made: Release,
    out: Path,
) -> None:
    """Pixels that must not come back are known under the former key, ids and patients through it."""
    former = Former(read_patient_key(source), sorted((release.read_changes() or {"tombstones": []})["tombstones"]))
    past = {digest: new.get(owner) if owner else None for digest, owner in read_past(source).items()}
    joined = out / "origins"
    write_origins(
        joined, [replace(o, image_id=new[i]) for i, o in origins.items()], patient_key=key, past=past, former=former
    )
    write_keep(out / "keep", joined, source / SURROGATES, release_digest=made.digest, shares=keep["shares"])
    shutil.rmtree(joined)
