"""Unlocking a release: the images as they were, bit by bit, or none."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from medmark.components.base.errors import MedmarkError
from medmark.components.base.progress import track
from medmark.components.dataset.codecs import decode_png
from medmark.components.dataset.release import Record, Release, with_pixels
from medmark.components.dataset.release_writer import ReleaseWriter
from medmark.components.lineage.files import read_small
from medmark.components.lineage.keys import key_id
from medmark.components.locking.evidence import read_lock_evidence
from medmark.components.locking.lock import GRANTS
from medmark.components.locking.locks import Lock, read_locks
from medmark.components.locking.seal import Grant, grant, grant_of, open_grant, read_grant, unpack, unseal


def unlock_release(
    release_dir: str | Path,
    locks: str | Path,
    out_dir: str | Path,
    private_key: X25519PrivateKey,
    *,
    grant_file: str | Path | None = None,
) -> Release:
    """Takes the logo off every image of a locked release.

    Args:
        release_dir: the locked release.
        locks: its private evidence, or ``locks.parquet`` from it.
        out_dir: folder to make for the release with the images as they were; complete, or without ``release.json``.
        private_key: of the recipient, see :func:`medmark.components.lineage.keys.load_locking_private`.
        grant_file: grant for that key; the one in the evidence when None.

    Returns:
        The unlocked release, a child of the locked one.

    Raises:
        MedmarkError: wrong key, a grant or locks of another release, an image that was changed or has no lock, or damage. Nothing is
            ever shown of an image that cannot be restored in every bit.
    """
    release, path = Release(release_dir), Path(locks)
    given = read_grant_file(grant_file) if grant_file else _own_grant(path, private_key)
    if given.release_digest != release.digest:
        raise MedmarkError(f"grant of another release: {grant_file or path}; ask the owner for one of {release.path}")
    key = open_grant(given, private_key)
    by_id = {lock.image_id: lock for lock in read_locks(path)}
    masked = any(lock.masked for lock in by_id.values())
    with ReleaseWriter.child(out_dir, release, version=release.version, lesions=masked) as writer:
        for record in track(release.records(), "unlocking", len(release)):
            if record.image_id not in by_id:
                raise MedmarkError(
                    f"no lock of {record.image_id}: {path}; get the locks of this release from the owner"
                )
            writer.add(unlock(record, by_id[record.image_id], key, release.image_mode))
    return Release(out_dir)


def unlock(record: Record, lock: Lock, key: bytes, mode: str) -> Record:
    """Takes the logo off one image.

    Args:
        record: of the locked release.
        lock: of this image.
        key: of the release, see :func:`medmark.components.locking.seal.open_grant`.
        mode: the release's ``image_mode``.

    Returns:
        The record as it was, with the mask of its lesions if it had one.

    Raises:
        MedmarkError: the image was changed, the lock is of another image, or key or lock are wrong.
    """
    remedy = "get release and locks again"
    pixels = decode_png(record.image, mode=mode)
    if with_pixels(record, pixels).sha256 != lock.locked_sha256 or record.image_id != lock.image_id:
        raise MedmarkError(f"image was changed after it was locked: {record.image_id}; {remedy}")
    content = unseal(key, lock.image_id, lock.sealed, lock.bound)
    if content is None:
        raise MedmarkError(f"lock does not open: {record.image_id} (another key, or the lock was changed); {remedy}")
    sha256, parts = unpack(content, ("hidden", "mask"))
    inside = pixels[lock.y : lock.y + lock.height, lock.x : lock.x + lock.width]
    inside[:] = np.frombuffer(zlib.decompress(parts["hidden"] or b""), pixels.dtype).reshape(inside.shape)
    opened = with_pixels(record, np.ascontiguousarray(pixels))
    if opened.sha256 != sha256:
        raise MedmarkError(f"unlocked image is not the one that was locked: {record.image_id}; {remedy}")
    mask = parts["mask"]
    return opened if mask is None else replace(opened, mask=mask, mask_sha256=hashlib.sha256(mask).hexdigest())


def grant_access(
    evidence_dir: str | Path,
    private_key: X25519PrivateKey,
    recipient: X25519PublicKey,
    *,
    grant_file: str | Path | None = None,
) -> Grant:
    """Lets another key open a locked release: a new recipient, or the owner's next key.

    Args:
        evidence_dir: private evidence of the locked release.
        private_key: of somebody who can open it.
        recipient: public key that shall open it.
        grant_file: grant for ``private_key``; the one in the evidence when None.

    Returns:
        The grant, to be handed out with ``locks.parquet``.

    Raises:
        MedmarkError: as :func:`unlock_release`.
    """
    path = Path(evidence_dir)
    given = read_grant_file(grant_file) if grant_file else _own_grant(path, private_key)
    return grant(open_grant(given, private_key), given.release_digest, recipient)


def read_grant_file(path: str | Path) -> Grant:
    """Reads a grant.

    Raises:
        MedmarkError: it is missing or damaged.
    """
    return read_grant(read_small(path, "grant", "ask the owner for it again"), path)


def _own_grant(evidence: Path, private_key: X25519PrivateKey) -> Grant:
    """Finds the grant for a key in the evidence."""
    if not evidence.is_dir():
        raise MedmarkError(
            f"no grant: {evidence} is not the evidence, which holds grants; give the grant that came with it"
        )
    read_lock_evidence(evidence)
    own = key_id(private_key.public_key())
    try:
        grants = [
            grant_of({name: value for name, value in entry.items() if name != "name"})
            for entry in json.loads((evidence / GRANTS).read_bytes())
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MedmarkError(f"damaged grants: {evidence / GRANTS}; restore the evidence from a backup") from error
    for given in grants:
        if given.recipient == own:
            return given
    raise MedmarkError(
        f"no grant for this key in {evidence} (key {own[:16]}...); use another key, or give a grant for it"
    )
