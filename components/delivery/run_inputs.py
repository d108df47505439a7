"""What a run starts from, on its way into a pipeline: release, evidence and keep."""

from __future__ import annotations

from pathlib import Path

from medmark.components.base.digests import file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.delivery.linked_copy import copy_linked
from medmark.components.delivery.places import is_place
from medmark.components.delivery.publish import Kind, fetch
from medmark.components.storage.store import Store


def fetch_input(kind: Kind, uri: str, digest: str, out: str | Path) -> None:
    """Fetches what a run starts from to where its first step writes.

    Args:
        kind: release, evidence or keep.
        uri: ``s3://bucket/prefix/<digest>`` in the store that the environment describes, or a folder of this machine.
        digest: SHA-256 that its manifest must have.
        out: folder that must be absent; it shares the files' content with a folder of this machine where the file system can.

    Raises:
        MedmarkError: nothing of this kind is there, something does not match its digest, or the store fails.
    """
    if is_place(uri):
        fetch(kind, uri, out, Store.from_environment("evidence" if kind.private else ""), digest)
        return
    manifest = Path(uri) / kind.manifest
    if not manifest.is_file() or file_sha256(manifest) != digest:
        raise MedmarkError(f"not what the run was started with: {manifest}; start it again")
    copy_linked(uri, out)
