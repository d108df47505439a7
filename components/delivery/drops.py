"""Raw drops in an object store, where any tool may have put them."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from medmark.components.base.errors import MedmarkError, cannot_write
from medmark.components.delivery.places import is_place
from medmark.components.storage.place import parse
from medmark.components.storage.store import Store, StoredObject, parallel

COMPLETE = "_SUCCESS"  # a drop with this object is complete; Hadoop and Spark write it last
MAX_FILE_BYTES = 1 << 30  # size of one raw file; arbitrary, far above any single x-ray

Listing = dict[str, StoredObject]  # by name


def raw_files(listing: Listing) -> Listing:
    """Returns a listing without ``_SUCCESS``."""
    return {name: stated for name, stated in listing.items() if name != COMPLETE}


def listing_digest(listing: Listing) -> str:
    """Returns the SHA-256 of names, sizes and ETags of the raw files, which changes as soon as the store reports a changed file."""
    lines = sorted([name, *stated] for name, stated in raw_files(listing).items())
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


@contextmanager
def raw_drop(source: str, state: str) -> Iterator[Path]:
    """Brings a drop to this machine for as long as the block lasts.

    Args:
        source: folder or CSV file of this machine, which is given back as it is, or ``s3://bucket/prefix`` in the object store
            of the evidence, which is fetched and removed at the end.
        state: digest of the listing that a drop in a store must have, see :func:`listing_digest`; any listing when empty.

    Raises:
        MedmarkError: as :func:`fetch_drop`.
    """
    if not is_place(source):
        yield Path(source)
        return
    store = Store.from_environment("evidence")
    with tempfile.TemporaryDirectory(prefix="medmark-") as folder:
        fetch_drop(source, Path(folder) / "drop", state or listing_digest(store.listing(source)), store)
        yield Path(folder) / "drop"


def fetch_drop(uri: str, folder: Path, digest: str, store: Store) -> None:
    """Fetches the raw files of a drop.

    Args:
        uri: address of the drop, ``s3://bucket/prefix``.
        folder: folder that gets the files; files that were fetched before are not fetched again.
        digest: digest that the drop's listing must have, before and after the files were read.
        store: object store with credentials that may read the drop.

    Raises:
        MedmarkError: the listing has another digest, a file is larger than 1 GiB, or what :meth:`Store.take` raises.
    """
    place, parts = parse(uri), folder.with_name(f"{folder.name}.parts")

    def check() -> Listing:
        listing = store.listing(place)
        if listing_digest(listing) != digest:
            raise MedmarkError(f"changed since it was submitted: {place}; submit it again when nothing writes there")
        return raw_files(listing)

    names = list(check())

    def fetched(name: str) -> tuple[str, Path]:
        return name, store.take(place / name, parts, limit=MAX_FILE_BYTES)

    taken = parallel([partial(fetched, name) for name in names], "fetching the drop")
    check()
    try:
        for name, part in taken:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).unlink(missing_ok=True)
            os.link(part, folder / name)
    except OSError as error:
        raise cannot_write(folder, error, "free space, or choose another folder (--work)") from error
