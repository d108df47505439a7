"""Records of submissions: they say what was done to which release, so that it is done only once."""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from medmark.components.base.digests import HEX, canonical_json
from medmark.components.base.errors import MedmarkError
from medmark.components.storage.place import parse
from medmark.components.storage.store import Store, parallel

RECORD_SCHEMA_VERSION = 1
MAX_RECORD_BYTES = 64 << 10  # arbitrary, far above what is written
RECORDS = "submissions"


def new_record(submission: dict, result: str | None) -> dict:
    """Returns the record of a submission that was done.

    Args:
        submission: ``key`` (SHA-256), ``pipeline``, ``release_digest`` of the release that it started from, and, for an update,
            ``drop`` with ``uri`` and ``listing_sha256``.
        result: digest of the release that came out; None if nothing changed.
    """
    return {
        "schema_version": RECORD_SCHEMA_VERSION,
        "drop": None,
        **submission,
        "result": result,
        "done_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def write_record(record: dict, evidence: str, store: Store) -> None:
    """Stores a record beside the evidence, as ``<evidence>/submissions/<key>.json``.

    It is not stored beside the releases, because key and listing would confirm a guess of the parameters or of a drop's files.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record.json"
        path.write_bytes(canonical_json(record))
        store.put(path, parse(evidence) / RECORDS / f"{record['key']}.json")


def read_record(key: str, evidence: str, store: Store) -> dict | None:
    """Reads the record of a submission; None if it was not done.

    Raises:
        MedmarkError: it is damaged, or the store fails.
    """
    place = parse(evidence) / RECORDS / f"{key}.json"
    content = store.read(place, MAX_RECORD_BYTES)
    if content is None:
        return None
    try:
        record = json.loads(content)
        drop, result = record["drop"], record["result"]
        if record["schema_version"] != RECORD_SCHEMA_VERSION or record["key"] != key:
            raise ValueError("another version or key")
        if not (result is None or HEX.fullmatch(result)) or not HEX.fullmatch(record["release_digest"]):
            raise ValueError("no digest")
        if drop is not None and not (isinstance(drop["uri"], str) and HEX.fullmatch(drop["listing_sha256"])):
            raise ValueError("no drop")
        return record
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MedmarkError(f"damaged record: {place} ({error}); restore its older version, or remove it") from error


def read_records(evidence: str, store: Store) -> list[dict]:
    """Reads all records beside the evidence.

    Raises:
        MedmarkError: as :func:`read_record`.
    """
    place = parse(evidence) / RECORDS
    keys = [name.removesuffix(".json") for name in store.list(place) if HEX.fullmatch(name.removesuffix(".json"))]
    records = parallel([partial(read_record, key, evidence, store) for key in keys], "reading records")
    return [record for record in records if record]
