"""Raw drops in an object store, as any tool puts them there."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medmark.components.base.errors import MedmarkError, cannot_write
from medmark.components.delivery.places import is_place
from medmark.components.storage.place import parse
from medmark.components.storage.store import Store, parallel

COMPLETE = "_SUCCESS"  # a drop that holds it is complete; what Hadoop and Spark write last
MAX_FILE_BYTES = 1 << 30  # of one raw file; arbitrary, far above any single x-ray

Listing = dict[str, tuple[int, str]]  # name to size in bytes and ETag


def raw_files(listing: Listing) -> Listing:
    """A listing without ``_SUCCESS``."""
    return {name: stated for name, stated in listing.items() if name != COMPLETE}


def listing_digest(listing: Listing) -> str:
    """SHA-256 of names, sizes and ETags of the raw files: another as soon as one changes, as far as the store tells."""
    lines = sorted([name, *stated] for name, stated in raw_files(listing).items())
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


@contextmanager
def raw_drop(source: str, state: str) -> Iterator[Path]:
    """A drop on this machine.

    Args:
        source: folder or CSV of this machine, which is given back, or ``s3://`` of a folder in the store that the environment
            describes for evidence, which is fetched and removed at the end.
        state: of a drop in a store the digest of its listing, see :func:`listing_digest`; empty: whatever lies there.

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
    """Fetches the raw files.

    Args:
        uri: where they lie.
        folder: gets them; what was fetched before is not fetched again.
        digest: of the listing that must lie there.
        store: with credentials that may read it.

    Raises:
        MedmarkError: something else lies there, before or after it was read, a file has more than 1 GiB, or what
            :meth:`Store.take` raises.
    """
    place, parts = parse(uri), folder.with_name(f"{folder.name}.parts")

    def check() -> Listing:
        listing = store.listing(place)
        if listing_digest(listing) != digest:
            raise MedmarkError(f"changed since it was submitted: {place}; submit it again when nothing writes there")
        return raw_files(listing)

    names = list(check())
    taken = parallel(
        [lambda n=n: (n, store.take(place / n, parts, limit=MAX_FILE_BYTES)) for n in names], "fetching the drop"
    )
    check()
    try:
        for name, part in taken:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).unlink(missing_ok=True)
            os.link(part, folder / name)
    except OSError as error:
        raise cannot_write(folder, error, "free space, or choose another folder (--work)") from error
