"""Publishes releases, evidence and keep in an object store, and fetches them; each is complete or invisible.

A release is stored under its digest: ``<uri>/<digest>/shards/...`` and, sent last, ``<uri>/<digest>/release.json``. Without that file
there is no release; with it, everything that it names was there before. Evidence and keep are stored likewise, under the SHA-256 of
``evidence.json`` and ``keep.json``, in another bucket that other credentials open. If a bucket has a default retention, every object
in it is locked from the moment it is there.

Sidecars are made later, so a manifest cannot name them: the lineage and commitment of a release or model, and the opening of a commitment among
the evidence. They are sent and fetched too, and checked where they are used.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from medmark.components.base.digests import HEX, file_sha256, first_changed
from medmark.components.base.errors import MedmarkError, cannot_write
from medmark.components.base.locks import locked
from medmark.components.base.private_files import (
    busy,
    check_no_link,
    check_own,
    open_to_others,
    private_files,
    private_folder,
)
from medmark.components.dataset.release import MAX_MANIFEST_BYTES, Release, refuse_names
from medmark.components.evidence.evidence import read_evidence
from medmark.components.evidence.keep import read_keep
from medmark.components.evidence.marked_model import MODEL, MarkedModel, read_marked_model
from medmark.components.storage.place import Place, check_name, parse
from medmark.components.storage.store import Store, parallel

MAX_SIDECAR_BYTES = 1 << 20  # as components/lineage reads them


@dataclass(frozen=True)
class Published:
    """What :func:`publish`, :func:`publish_evidence` and :func:`publish_keep` did.

    Attributes:
        uri: address of what was published, for :func:`fetch`.
        digest: the last part of the address.
        sent: number of files that had to be sent; 0 if all were there already.
        locked_until: time until which the store keeps it, as the store writes it; None if it can be deleted.
    """

    uri: str
    digest: str
    sent: int
    locked_until: str | None


@dataclass(frozen=True)
class Kind:
    """A kind of folder that is complete when its manifest is there: release, marked model, evidence or keep.

    Attributes:
        manifest: name of the file that names the others; its SHA-256 is the digest.
        files: reads names and SHA-256 of the other files from a folder with the manifest.
        check: refuses a folder that is not as the manifest says.
        sidecars: names of files that the manifest cannot name, in the order in which they are made.
    """

    manifest: str
    files: Callable[[Path], dict[str, str]]
    check: Callable[[Path], object]
    sidecars: tuple[str, ...] = ()

    @property
    def private(self) -> bool:
        """Whether it must never be stored where releases and marked models are."""
        return self.manifest not in PUBLIC


def publish(release_dir: str | Path, uri: str, store: Store) -> Published:
    """Checks a release, or a marked model, and stores it under ``<uri>/<digest>/``.

    Only the files that ``release.json`` or ``model.json`` names are sent, and ``lineage.json``, ``commitment.json``, ``commitment.tsr`` and
    ``certificates.json`` if they are there. A second call with the same release sends nothing; a call after an interruption, or after a
    commitment was made, sends what is missing. If there is neither a commitment nor, for a locked release, a list of certificates, a line
    on standard error says so.

    Args:
        release_dir: the release or the marked model.
        uri: ``s3://bucket/prefix``; the digest is added.
        store: object store with credentials that may write there.

    Raises:
        MedmarkError: it is damaged, a release's ids hold file names (schema version 1), other content is at the place, or the
            store fails.
    """
    folder = Path(release_dir)
    for kind in (EVIDENCE, KEEP):
        if (folder / kind.manifest).exists():
            raise MedmarkError(f"private: {folder} has {kind.manifest}; 'medmark publish-evidence' stores it apart")
    published = _publish(MARKED_MODEL if (folder / MODEL).is_file() else RELEASE, folder, uri, store)
    if not any((folder / name).is_file() for name in ("commitment.json", "certificates.json")):
        print(
            f"medmark: {folder} goes out without a commitment: nobody will be able to tell that its evidence was there before"
            " (see 'medmark commit')",
            file=sys.stderr,
        )
    return published


def publish_evidence(evidence_dir: str | Path, uri: str, store: Store) -> Published:
    """Checks evidence and stores it under ``<uri>/<SHA-256 of evidence.json>/``, with the opening of its commitment if there is one.

    Credentials for releases must not open this bucket.

    Args:
        evidence_dir: the evidence.
        uri: ``s3://bucket/prefix``; the digest is added.
        store: object store with credentials that may write there.

    Raises:
        MedmarkError: the evidence is damaged, releases or other content are at the place, or the store fails.
    """
    return _publish(EVIDENCE, Path(evidence_dir), uri, store)


def publish_keep(keep_dir: str | Path, uri: str, store: Store) -> Published:
    """Checks a folder keep and stores it under ``<uri>/<SHA-256 of keep.json>/``, as :func:`publish_evidence` does evidence.

    Raises:
        MedmarkError: as :func:`publish_evidence`.
    """
    return _publish(KEEP, Path(keep_dir), uri, store)


def fetch_release(uri: str, folder: str | Path, store: Store) -> Release:
    """Fetches a release; it appears in ``folder`` when it is complete and every digest is right.

    Until then ``<folder>.<12 digits of the digest>.partial`` holds what has arrived, and a later call goes on there.

    Args:
        uri: ``s3://bucket/prefix/<digest>``, as :attr:`Published.uri`.
        folder: absent or empty; or the same release, which gets the sidecars that it lacks.
        store: object store with credentials that may read it.

    Raises:
        MedmarkError: no complete release is there, something does not match its digest, the folder has other content, or
            the store fails.
    """
    fetch(RELEASE, uri, folder, store, _digest_of(parse(uri)))
    return Release(folder)


def fetch_model(uri: str, folder: str | Path, store: Store) -> MarkedModel:
    """Fetches a marked model, as :func:`fetch_release` does a release.

    Raises:
        MedmarkError: as :func:`fetch_release`.
    """
    fetch(MARKED_MODEL, uri, folder, store, _digest_of(parse(uri)))
    return read_marked_model(folder)


def fetch_evidence(uri: str, folder: str | Path, store: Store) -> dict:
    """Fetches evidence, as :func:`fetch_release` does a release; returns the content of ``evidence.json``.

    Only the owner of the folder can read it.

    Raises:
        MedmarkError: as :func:`fetch_release`.
    """
    fetch(EVIDENCE, uri, folder, store, _digest_of(parse(uri)))
    return json.loads((Path(folder) / EVIDENCE.manifest).read_bytes())


def fetch_keep(uri: str, folder: str | Path, store: Store) -> dict:
    """Fetches a folder keep, as :func:`fetch_evidence` does evidence; returns the content of ``keep.json``.

    Raises:
        MedmarkError: as :func:`fetch_release`.
    """
    fetch(KEEP, uri, folder, store, _digest_of(parse(uri)))
    return json.loads((Path(folder) / KEEP.manifest).read_bytes())


def kind_of(names: Iterable[str]) -> Kind | None:
    """Returns what a folder or place with these names holds; None if it holds nothing complete."""
    return next((kind for kind in KINDS if kind.manifest in set(names)), None)


def fetch(kind: Kind, uri: str | Place, folder: str | Path, store: Store, digest: str) -> None:
    """Fetches into a folder beside, checks every digest, and renames.

    Args:
        kind: release, evidence or keep.
        uri: its address.
        folder: absent or empty, or with the same content.
        store: object store with credentials that may read it.
        digest: SHA-256 that the manifest must have.

    Raises:
        MedmarkError: as :func:`fetch_release`.
    """
    place, folder = parse(uri), Path(folder)
    if store.sha256(place / kind.manifest) is None:
        raise MedmarkError(
            f"nothing complete there: {place} has no {kind.manifest}; check the address, or publish again"
        )
    check_no_link(folder)
    staged = folder.with_name(f"{folder.name}.{digest[:12]}.partial")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with private_files(), locked(staged.with_name(f".{staged.name}.lock"), busy(folder)):
            _fetch(kind, place, folder, staged, store, digest)
    except OSError as error:
        raise cannot_write(staged, error, "free space or choose another folder") from error


def _fetch(kind: Kind, place: Place, folder: Path, staged: Path, store: Store, digest: str) -> None:
    """Fetches to ``staged``, where an earlier attempt may have left something, then to ``folder``."""
    if (folder / kind.manifest).is_file() and file_sha256(folder / kind.manifest) == digest:
        kind.check(folder)
        if kind.private:
            private_folder(folder)  # an opening may come
        _fetch_sidecars(kind, place, folder, store)
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MedmarkError(f"not empty: {folder}; choose a new folder or empty this one")
    hidden = staged / ".incomplete"  # the manifest waits there: beside the files it would call them complete
    if os.path.lexists(staged):
        check_own(staged, f"remove {staged}, then fetch again", links=False)
    private_folder(staged)
    hidden.mkdir(exist_ok=True)
    store.get(place / kind.manifest, hidden / kind.manifest, sha256=digest, limit=MAX_MANIFEST_BYTES)
    files = kind.files(hidden)
    tasks: list[Callable[[], object]] = [
        partial(store.get, place / name, staged / name, sha256=sha256) for name, sha256 in files.items()
    ]
    parallel(tasks, "fetching")
    _fetch_sidecars(kind, place, staged, store)
    os.replace(hidden / kind.manifest, staged / kind.manifest)
    hidden.rmdir()
    kind.check(staged)
    if not kind.private:
        open_to_others(staged)
    os.replace(staged, folder)


def send(
    folder: Path, files: dict[str, str], there: Iterable[str], place: Place, store: Store, *, last: tuple[str, ...] = ()
) -> int:
    """Stores the files of a folder, several at a time; files that are there already are compared and not sent.

    Args:
        folder: folder with the files.
        files: SHA-256 of each file, by name.
        there: names of the objects under ``place``.
        place: where to store the files.
        store: object store with credentials that may write there.
        last: names of the files to send after all others, one after the other.

    Returns:
        Number of files that had to be sent.

    Raises:
        MedmarkError: a file has another digest, other content is at the place, or the store fails.
    """
    if (file := first_changed(folder, files)) is not None:
        raise MedmarkError(f"changed or missing: {file}; make or get it again before publishing")
    known = set(there)

    def stated(name: str) -> tuple[str, str | None]:
        return name, store.sha256(place / name)

    for name, found in parallel([partial(stated, name) for name in sorted(known)], "comparing") if known else []:
        if found != files.get(name):
            raise MedmarkError(f"other content at {place / name}; nothing is overwritten, choose another place")
    missing = [name for name in files if name not in known]
    parallel([partial(store.put, folder / n, place / n) for n in missing if n not in last], "publishing")
    for name in last:
        if name in missing:
            store.put(folder / name, place / name)
    return len(missing)


def _publish(kind: Kind, folder: Path, uri: str, store: Store) -> Published:
    """Sends the files, then the sidecars, then what makes them count."""
    if HEX.fullmatch(parse(uri).prefix.rpartition("/")[2]):
        raise MedmarkError(f"{uri} is the place of one release or evidence; give its parent, the digest is added")
    if kind.private and any(name.rpartition("/")[2] in PUBLIC for name in store.list(uri)):
        raise MedmarkError(f"releases are at {uri}: evidence would be public there; give a bucket of its own")
    kind.check(folder)
    digest = file_sha256(folder / kind.manifest)
    files, sidecars = kind.files(folder), [name for name in kind.sidecars if (folder / name).is_file()]
    for name in sidecars:
        if (folder / name).stat().st_size > MAX_SIDECAR_BYTES:
            raise MedmarkError(
                f"larger than {MAX_SIDECAR_BYTES} bytes: {folder / name}; medmark did not write it, take it away"
            )
        files[name] = file_sha256(folder / name)
    place = parse(uri) / digest
    # this copy may lack sidecars that were sent before, and an attempt that was never completed may have left others
    stored = store.list(place)
    kept = kind.manifest in stored
    there = [name for name in stored if name not in kind.sidecars or (kept and name in files)]
    sent = send(folder, {**files, kind.manifest: digest}, there, place, store, last=(*sidecars, kind.manifest))
    return Published(str(place), digest, sent, store.locked_until(place / kind.manifest))


def _fetch_sidecars(kind: Kind, place: Place, folder: Path, store: Store) -> None:
    for name in kind.sidecars:
        if not os.path.lexists(folder / name) and store.sha256(place / name) is not None:
            store.get(place / name, folder / name, limit=MAX_SIDECAR_BYTES)
            if not kind.private:
                open_to_others(folder / name)


def _check_release(folder: Path) -> None:
    """Checks a release before it is published; one whose ids hold file names is refused."""
    release = Release(folder)
    refuse_names(release, "published")
    release.verify()


def _release_files(folder: Path) -> dict[str, str]:
    """Every file that ``release.json`` names, with its SHA-256."""
    release = Release(folder)
    files = {file: sha256 for file, sha256, _ in release.shards}
    rejected = release.rejected if release.schema_version == 1 else None
    for named, file in ((rejected, "rejected.parquet"), (release.changes, "changes.json")):
        if named is not None:
            if not isinstance(named, dict) or named.get("file") != file:
                raise MedmarkError(f"damaged release.json: {folder} names another {file}; get the release again")
            files[file] = named.get("sha256", "")
    return _checked_files(files, folder)


def _named_files(manifest: str) -> Callable[[Path], dict[str, str]]:
    """Reader of the names in ``evidence.json``, ``keep.json`` or ``model.json``."""

    def files(folder: Path) -> dict[str, str]:
        try:
            return _checked_files(dict(json.loads((folder / manifest).read_bytes())["files"]), folder)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise MedmarkError(f"damaged {manifest}: {folder} ({error!r}); publish it again") from error

    return files


def _checked_files(files: dict, folder: Path) -> dict[str, str]:
    for name, sha256 in files.items():
        check_name(name, folder)
        if not isinstance(sha256, str) or not HEX.fullmatch(sha256):
            raise MedmarkError(f"no SHA-256 of {name} in {folder}; make or get it again")
    return files


def _digest_of(place: Place) -> str:
    digest = place.prefix.rpartition("/")[2]
    if not HEX.fullmatch(digest):
        raise MedmarkError(f"no digest at the end of {place}; give the address that 'medmark publish' printed")
    return digest


RELEASE = Kind(
    "release.json",
    _release_files,
    _check_release,
    ("commitment.tsr", "commitment.json", "lineage.json", "certificates.json"),
)
EVIDENCE = Kind("evidence.json", _named_files("evidence.json"), read_evidence, ("opening.json",))
KEEP = Kind("keep.json", _named_files("keep.json"), read_keep)
MARKED_MODEL = Kind(
    MODEL, _named_files(MODEL), read_marked_model, ("commitment.tsr", "commitment.json", "lineage.json")
)
KINDS = (RELEASE, MARKED_MODEL, EVIDENCE, KEEP)
PUBLIC = (RELEASE.manifest, MARKED_MODEL.manifest)
