"""What the tests of the object store share."""

import hashlib
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from medmark.components.dataset import release_writer as release_format
from medmark.components.dataset.codecs import encode_png
from medmark.components.dataset.release import Record
from medmark.components.dataset.release_writer import ReleaseWriter
from medmark.components.storage.store import Store


def processes_of(folder: Path) -> list[int]:
    """Processes that were started for services in a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if f"{folder}/".encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                pass
    return found


def kill_server(folder: Path) -> None:
    """kill -9 for all of them."""
    for pid in processes_of(folder):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while processes_of(folder):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def store_for(services, identity: str, endpoint: str | None = None, **options) -> Store:
    """The store as one identity sees it, perhaps through a proxy."""
    key = json.loads(services.credentials[identity].read_text())
    return Store(endpoint or services.s3, key["access_key"], key["secret_key"], **options)


def make_release(path: Path, *, images: int, seed: int, patch: pytest.MonkeyPatch) -> Path:
    """Random images of 24 px, two of them a shard."""
    patch.setattr(release_format, "SHARD_BYTES", 1000)
    patch.setattr(release_format, "ROW_GROUP_BYTES", 1000)
    rng = np.random.default_rng(seed)
    with ReleaseWriter(path, name="noise", version="1", class_names=["a", "b"]) as writer:
        for i in range(images):
            data = encode_png(rng.integers(0, 256, (24, 24), dtype=np.uint8))
            digest = hashlib.sha256(data).hexdigest()
            writer.add(Record(f"image-{i}", data, "png", i % 2, f"patient-{i}", "train", 24, 24, 8, digest))
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
