"""Releases and evidence in an object store, complete or invisible.

A release lies under its digest: ``<uri>/<digest>/shards/...`` and, sent last, ``<uri>/<digest>/release.json``. Without that
file there is no release, whatever else lies there; with it, everything it names was there before. Evidence lies likewise,
under the SHA-256 of ``evidence.json``, in another bucket that other credentials open. Where the bucket has a default
retention, every object is locked from the moment it is there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medmark.components.dataset.release import MAX_MANIFEST_BYTES, Release, file_sha256
from medmark.components.errors import MedmarkError
from medmark.components.platform.store import Place, Store, check_name, parallel, parse

OPENING = "opening.json"  # of a commitment, see components/lineage
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Published:
    """What :func:`publish` and :func:`publish_evidence` did.

    Attributes:
        uri: where it lies now; what :func:`fetch_release` or :func:`fetch_evidence` takes.
        digest: the last part of it.
        sent: files that had to be sent; 0: all was there already.
        locked_until: time until which the store keeps it, as the store writes it; None: it can be deleted.
    """

    uri: str
    digest: str
    sent: int
    locked_until: str | None


def publish(release_dir: str | Path, uri: str, store: Store) -> Published:
    """Checks a release and stores it under ``<uri>/<digest>/``.

    What ``release.json`` names is sent and nothing else that lies in the folder. A second call with the same release sends
    nothing; one after an interruption sends what is missing.

    Raises:
        MedmarkError: the release is damaged, other content lies at the place, or the store fails.
    """
    if (Path(release_dir) / "evidence.json").exists():
        raise MedmarkError(f"private evidence: {release_dir}; 'medmark publish-evidence' stores it apart")
    release = Release(release_dir)
    release.verify()
    return _publish(release.path, "release.json", release.digest, _files(release), uri, store)


def publish_evidence(evidence_dir: str | Path, uri: str, store: Store) -> Published:
    """Checks evidence and stores it under ``<uri>/<SHA-256 of evidence.json>/``, with the opening of its commitment if there is one.

    Give a bucket and credentials that nobody has who may use the release's bucket.

    Raises:
        MedmarkError: the evidence is damaged, releases or other content lie at the place, or the store fails.
    """
    from medmark.components.poisoning.poison import read_evidence  # loads torch, which a release does not need

    if any(name.rpartition("/")[2] == "release.json" for name in store.list(parse(uri))):
        raise MedmarkError(f"releases lie at {uri}: evidence would be public there; give a bucket of its own")
    files = dict(read_evidence(evidence_dir)["files"])
    folder = Path(evidence_dir)
    if (folder / OPENING).is_file():
        files[OPENING] = file_sha256(folder / OPENING)
    return _publish(folder, "evidence.json", file_sha256(folder / "evidence.json"), files, uri, store)


def fetch_release(uri: str, folder: str | Path, store: Store) -> Release:
    """Fetches a release; it appears in ``folder`` when it is complete and every digest is right.

    Until then it lies in ``<folder>.<12 digits of the digest>.partial``, where a later call goes on.

    Args:
        uri: ``s3://bucket/prefix/<digest>``, as :attr:`Published.uri`.
        folder: absent or empty, or the same release.
        store: with credentials that may read it.

    Raises:
        MedmarkError: no complete release is there, something does not match its digest, the folder has other content, or
            the store fails.
    """
    folder = Path(folder)
    if (folder / "release.json").is_file():
        there = Release(folder)
        if there.digest == _digest_of(parse(uri)):
            there.verify()
            return there
    _fetch(
        uri,
        folder,
        "release.json",
        lambda staged: _files(Release(staged)),
        lambda staged: Release(staged).verify(),
        store,
    )
    return Release(folder)


def fetch_evidence(uri: str, folder: str | Path, store: Store) -> dict:
    """Fetches evidence, as :func:`fetch_release` does a release; returns the content of ``evidence.json``.

    The folder is readable by its owner only.

    Raises:
        MedmarkError: as :func:`fetch_release`.
    """
    from medmark.components.poisoning.poison import read_evidence  # loads torch, which a release does not need

    opening = parse(uri) / OPENING
    # evidence.json cannot name it: the opening is made afterwards; a wrong one does not open the commitment
    committed = {OPENING: store.sha256(opening)} if OPENING in store.list(parse(uri)) else {}
    _fetch(uri, Path(folder), "evidence.json", lambda staged: _evidence_files(staged) | committed, read_evidence, store)
    return read_evidence(folder)


def _files(release: Release) -> dict[str, str]:
    """Every file that ``release.json`` names, with its SHA-256."""
    files = {file: sha256 for file, sha256, _ in release.shards}
    rejected = release.rejected
    if rejected is not None:
        if not isinstance(rejected, dict) or rejected.get("file") != "rejected.parquet":
            raise MedmarkError(
                f"damaged release.json: {release.path} names other rejected images; get the release again"
            )
        files["rejected.parquet"] = rejected.get("sha256")
    return _checked_files(files, release.path)


def _evidence_files(folder: Path) -> dict[str, str]:
    try:
        return _checked_files(dict(json.loads((folder / "evidence.json").read_bytes())["files"]), folder)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MedmarkError(f"damaged evidence.json: {folder} ({error!r}); publish the evidence again") from error


def _checked_files(files: dict, folder: Path) -> dict[str, str]:
    for name, sha256 in files.items():
        check_name(name, folder)
        if not isinstance(sha256, str) or not DIGEST.fullmatch(sha256):
            raise MedmarkError(f"no SHA-256 of {name} in {folder}; make or get it again")
    return files


def _publish(folder: Path, last: str, digest: str, files: dict[str, str], uri: str, store: Store) -> Published:
    """Sends the files, then the one that makes them count."""
    if DIGEST.fullmatch(parse(uri).prefix.rpartition("/")[2]):
        raise MedmarkError(f"{uri} is the place of one release or evidence; give its parent, the digest is added")
    place, files = parse(uri) / digest, {**files, last: digest}
    for name, sha256 in files.items():
        if not (folder / name).is_file() or file_sha256(folder / name) != sha256:
            raise MedmarkError(f"changed or missing: {folder / name}; make or get it again before publishing")
    there = store.list(place)
    for name in there:
        if store.sha256(place / name) != files.get(name):
            raise MedmarkError(f"other content lies at {place / name}; nothing is overwritten, choose another place")
    missing = [name for name in files if name not in there and name != last]
    parallel([lambda n=n: store.put(folder / n, place / n) for n in missing], "publishing")
    if last not in there:
        store.put(folder / last, place / last)
        missing.append(last)
    return Published(str(place), digest, len(missing), store.locked_until(place / last))


def _digest_of(place: Place) -> str:
    digest = place.prefix.rpartition("/")[2]
    if not DIGEST.fullmatch(digest):
        raise MedmarkError(f"no digest at the end of {place}; give the address that 'medmark publish' printed")
    return digest


def _fetch(
    uri: str, folder: Path, last: str, files_of: Callable[[Path], dict], check: Callable[[Path], object], store: Store
) -> None:
    """Fetches into a folder beside, checks, and renames."""
    place = parse(uri)
    digest = _digest_of(place)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MedmarkError(f"not empty: {folder}; choose a new folder or empty this one")
    manifest = store.read(place / last, MAX_MANIFEST_BYTES)
    if manifest is None:
        raise MedmarkError(f"nothing complete there: {place} has no {last}; check the address, or publish again")
    if hashlib.sha256(manifest).hexdigest() != digest:
        raise MedmarkError(f"content does not match its digest: {place / last}; do not use it, publish it again")
    staged = folder.with_name(f"{folder.name}.{digest[:12]}.partial")
    hidden = staged / ".incomplete"  # the manifest waits there: beside the files it would call them complete
    try:
        staged.mkdir(parents=True, exist_ok=True, mode=0o700 if last == "evidence.json" else 0o777)
        hidden.mkdir(exist_ok=True)
        (hidden / last).write_bytes(manifest)
        files = files_of(hidden)
        parallel([lambda n=n, s=s: store.get(place / n, staged / n, sha256=s) for n, s in files.items()], "fetching")
        os.replace(hidden / last, staged / last)
        hidden.rmdir()
        check(staged)
        os.replace(staged, folder)
    except OSError as error:
        raise MedmarkError(f"cannot write: {staged} ({error.strerror}); free space or choose another folder") from error
