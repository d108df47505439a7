"""Checks a release or a marked model, and everything it was made from, without a network.

Releases are side by side, each in a folder named by its digest. From the newest one, ``parent`` leads back to the first marked one,
whose record says which raw drop it came from. The digest of a release fixes its files; its signed ``lineage.json`` fixes the
commitment and the ``lineage.json`` before it. So a change anywhere is found, and the first object that does not fit is named.

A marked model has no model before it: its parent is the release that it was trained on, as the clean release is that of the first
marked one.

Nothing is parsed before a digest or a signature vouches for it, except ``release.json``, ``model.json`` and the signed files themselves.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from medmark.components.base.digests import HEX, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.origin import Origin, drop_digest, read_origins, read_patient_key
from medmark.components.dataset.release import CHANGES_SCHEMA_VERSION, MAX_MANIFEST_BYTES, Release
from medmark.components.delivery.publish import fetch_model, fetch_release
from medmark.components.evidence.marked_model import MODEL, MarkedModel, read_subject
from medmark.components.lineage.commitment import verify_commitment
from medmark.components.lineage.dsse import check_signature
from medmark.components.lineage.files import read_small
from medmark.components.lineage.keys import key_id
from medmark.components.lineage.record import COMMITMENT, LINEAGE, TIMESTAMP, Lineage, read_lineage
from medmark.components.lineage.timestamp import verify_timestamp
from medmark.components.storage.place import check_name, parse
from medmark.components.storage.store import Store

CHAIN_SCHEMA_VERSION = 1
MAX_RELEASES = 10_000  # arbitrary: a longer chain is not an owner's
HOLDS, BROKEN, UNCHECKED = "holds", "broken", "not checked"
LISTS = ("added", "changed", "withdrawn", "tombstones")


@dataclass
class _Link:
    """A release of the chain as far as it could be read, and what was found about it."""

    folder: Path
    release: Release | MarkedModel | None = None
    lineage: Lineage | None = None
    changes: dict | None = None
    commitment: dict | None = None
    timestamp: str | None = None
    objects: list[dict] = field(default_factory=list)

    @cached_property
    def images(self) -> dict[str, tuple]:
        """Digest and label of every image; none if the release cannot be read."""
        return _index(self.release) if isinstance(self.release, Release) else {}

    @property
    def sound(self) -> bool:
        return not any(found["status"] == BROKEN for found in self.objects)

    def check(self, name: str, kind: str, digest: str | None, test: Callable[[], str]) -> bool:
        """Notes whether a test of a file in the folder passes; the test returns what it found, or raises."""
        try:
            status, says = HOLDS, test()
        except MedmarkError as error:
            status, says = BROKEN, str(error)
        self.note(name, kind, digest, status, says)
        return status == HOLDS

    def note(self, name: str, kind: str, digest: str | None, status: str, says: str) -> None:
        path = f"{self.folder.name}/{name}" if name else self.folder.name
        self.objects.append({"path": path, "kind": kind, "digest": digest, "status": status, "says": says})


def verify_chain(
    head: str | Path,
    public_key: Ed25519PublicKey | None,
    *,
    root: str | Path | None = None,
    timestamp_roots: str | Path | None = None,
    raw: str | Path | None = None,
    sources: str | Path | None = None,
    clean: str | Path | None = None,
) -> dict:
    """Checks a marked release and all releases before it, or a marked model.

    Args:
        head: folder of the newest release, or of the model. If its name is a digest, it must have that digest.
        public_key: the owner's public key, obtained from the owner. None: signatures are not checked, and the result does not
            hold.
        root: folder with the earlier releases, each in a folder named by its digest; the folder above ``head`` when None.
        timestamp_roots: PEM file with the root certificates of the time stamp authority; each commitment then needs a time
            stamp. Time stamps are not checked when None.
        raw: folder with the raw drop of the first release; needs ``sources``.
        sources: ``sources.parquet`` of the first release's keep, or its folder, with ``patients.json`` beside it: the drop's
            digest is an HMAC under the key in that file. Needs ``raw``.
        clean: the clean release that the first marked one was made from, or the one that the model was trained on.

    Returns:
        ``holds``; ``head``, its digest; ``key_id``; ``broken``, the first broken object in the order of time, or None;
        ``releases``, the first one first; ``objects``, a list of ``path`` (in the root), ``kind``, ``digest``, ``status``
        (``holds``, ``broken`` or ``not checked``) and ``says``. JSON values.

    Raises:
        MedmarkError: ``raw`` is given without ``sources`` or the other way round. Anything wrong with the chain is in the
            result.
    """
    if (raw is None) != (sources is None):
        raise MedmarkError("raw files cannot be checked: give both the raw folder and sources.parquet of the keep")
    head = Path(head).resolve()
    root = Path(root).resolve() if root is not None else head.parent
    links = _walk(head, root, public_key, timestamp_roots)
    for child, parent in zip(links, links[1:], strict=False):
        _compare(child, parent)
        vars(child).pop("images", None)  # of a long chain they would not fit into memory
    first = links[-1]
    origins = _check_raw(links, Path(raw), Path(sources)) if raw is not None and sources is not None else None
    if clean is not None:
        _check_clean(first, Path(clean), origins)
    hidden = [path for path in (head.parent, root, raw, sources, clean) if path is not None]
    objects = [_without_paths(found, hidden) for link in reversed(links) for found in link.objects]
    broken = next((found for found in objects if found["status"] == BROKEN), None)
    return {
        "schema_version": CHAIN_SCHEMA_VERSION,
        "holds": broken is None and public_key is not None,
        "head": links[0].release.digest if links[0].release else None,
        "key_id": key_id(public_key) if public_key else None,
        "broken": broken,
        "releases": [_summary(link) for link in reversed(links)],
        "objects": objects,
    }


def fetch_chain(uri: str, folder: str | Path, store: Store) -> Path:
    """Fetches a release and those before it, or a marked model, from an object store, side by side, with lineage and commitments.

    Args:
        uri: ``s3://bucket/prefix/<digest>``, as ``medmark publish`` printed it.
        folder: folder to write to; releases in it are not fetched again.
        store: object store with credentials that may read them.

    Returns:
        The newest release's folder, for :func:`verify_chain`.

    Raises:
        MedmarkError: a release is missing or does not match its digest, or the store fails.
    """
    folder, place = Path(folder), parse(uri)
    above, _, digest = place.prefix.rpartition("/")
    head = folder / digest
    if store.sha256(place / MODEL) is not None:
        fetch_model(str(place), head, store)
        return head
    for _ in range(MAX_RELEASES):
        here = parse(f"s3://{place.bucket}/{above}/{digest}" if above else f"s3://{place.bucket}/{digest}")
        release = fetch_release(str(here), folder / digest, store)
        if release.changes is None:
            return head
        if not isinstance(release.parent, str) or not HEX.fullmatch(release.parent):
            raise MedmarkError(f"damaged release.json: {here} names no parent; it was published broken")
        digest = release.parent
    raise MedmarkError(f"more than {MAX_RELEASES} releases behind {place}; check the address")


class LocalChain(NamedTuple):
    """A chain of releases on this machine.

    Attributes:
        release: folder of the newest one, or of a marked model.
        root: folder with the earlier ones; None: beside it.
    """

    release: Path
    root: Path | None


@contextmanager
def on_this_machine(release: str | Path, root: str | Path | None = None) -> Iterator[LocalChain]:
    """Brings a chain to where :func:`verify_chain` can read it; one from an object store is removed when the block ends.

    Args:
        release: folder, or ``s3://bucket/prefix/<digest>`` in the object store that the environment names.
        root: folder with the earlier releases, if ``release`` is a folder and they are not beside it.

    Raises:
        MedmarkError: ``root`` with a release in a store, or what :func:`fetch_chain` raises.
    """
    if not str(release).startswith("s3://"):
        yield LocalChain(Path(release), Path(root) if root is not None else None)
        return
    if root is not None:
        raise MedmarkError(f"earlier releases are looked for beside {release}; give no root with an address in a store")
    with tempfile.TemporaryDirectory(prefix="medmark-") as folder:
        yield LocalChain(fetch_chain(str(release), folder, Store.from_environment()), None)


def _walk(
    head: Path, root: Path, public_key: Ed25519PublicKey | None, timestamp_roots: str | Path | None
) -> list[_Link]:
    """Returns the chain, newest first, with what can be said about each release alone."""
    links: list[_Link] = []
    folder, expected = head, head.name if HEX.fullmatch(head.name) else None
    while True:
        link = _examine(folder, expected, public_key, timestamp_roots)
        links.append(link)
        release = link.release
        if release is None or release.changes is None:
            return links
        if len(links) >= MAX_RELEASES:
            link.note(
                "release.json", "parent", release.parent, BROKEN, f"more than {MAX_RELEASES} releases; not a chain"
            )
            return links
        assert release.parent is not None  # _read_release made sure
        folder, expected = root / release.parent, release.parent


def _examine(
    folder: Path, expected: str | None, public_key: Ed25519PublicKey | None, timestamp_roots: str | Path | None
) -> _Link:
    """Checks what can be checked of a release without the one before it."""
    link = _Link(folder)
    if not folder.is_dir():
        says = (
            f"missing: {folder} is not there, and a later release was made from it; get it from where it was published"
        )
        link.note("", "release", expected, BROKEN, says)
        return link
    manifest, what = _manifest(folder)
    if not link.check(manifest, what, expected, lambda: _read_release(link, expected)):
        link.release = None
    release = link.release
    if release is not None:
        link.check(LINEAGE, "lineage", None, lambda: _read_lineage(link, release, public_key))
        if isinstance(release, MarkedModel):
            for name, sha256 in release.stated["files"].items():
                link.check(name, "weights", sha256, partial(_same, link.folder / name, sha256))
        else:
            _check_files(link, release)
        _check_commitment(link, release, public_key, timestamp_roots)
    return link


def _manifest(folder: Path) -> tuple[str, str]:
    """Which file names the rest of a folder, and what it is the manifest of."""
    return (MODEL, "model") if (folder / MODEL).is_file() else ("release.json", "release")


def _read_release(link: _Link, expected: str | None) -> str:
    manifest, what = _manifest(link.folder)
    _regular(link.folder / manifest, f"get the {what} again")
    release = link.release = read_subject(link.folder)
    if expected is not None and release.digest != expected:
        raise MedmarkError(
            f"{manifest} changed or of another {what}: {release.path / manifest} has the digest {release.digest},"
            f" not {expected}; get the {what} again"
        )
    if isinstance(release, MarkedModel):
        return f"{release.name} {release.version}, {release.stated['architecture']}"
    if not isinstance(release.parent, str) or not HEX.fullmatch(release.parent):
        raise MedmarkError(f"no marked release: {release.path} names no parent; give one that 'medmark run' made")
    return f"{release.name} {release.version}, {len(release)} images"


def _read_lineage(link: _Link, release: Release | MarkedModel, public_key: Ed25519PublicKey | None) -> str:
    """Reads the lineage and checks all that needs no other release; keeps it only if it is authentic."""
    path = link.folder / LINEAGE
    lineage = read_lineage(path)
    if public_key is not None:
        check_signature(lineage, public_key)
    if (lineage.release_digest, lineage.release_name) != (release.digest, release.name):
        raise MedmarkError(f"lineage of another release: {path} is about {lineage.release_digest}; get it again")
    record, again = lineage.record, "its signer stated what cannot be true: ask the owner"
    if (record["release_digest"], record["parent_digest"]) != (release.digest, release.parent):
        raise MedmarkError(f"record of another release: {path}; {again}")
    if (release.changes is None) != (lineage.parent_lineage_sha256 is None):
        raise MedmarkError(f"lineage says another thing of a parent than release.json: {path}; {again}")
    first = release.changes is None
    drop = record["drop"]["digest"]
    if not _leads(record, record["parent_digest"], release.digest) or not (
        first or _leads(record, drop, release.digest)
    ):
        raise MedmarkError(f"steps do not lead to the release: {path}; {again}")
    if first and not any(
        step["inputs"].get("source", {}).get("sha256") == drop
        and {"sha256": release.parent} in step["outputs"].values()
        for step in record["steps"]
    ):
        raise MedmarkError(f"no step makes the release before it of the raw drop: {path}; {again}")
    link.lineage = lineage
    if public_key is None:
        return f"signature not checked; names the key {lineage.signed_by}"
    return f"signed with the key {lineage.signed_by} at {lineage.signed_at}, as the signer says"


def _leads(record: dict, start: str, goal: str) -> bool:
    """Tells whether the steps, which are in order, make one artifact from another."""
    made = {start}
    for step in record["steps"]:
        if made & {next(iter(digest.values())) for digest in step["inputs"].values()}:
            made |= {next(iter(digest.values())) for digest in step["outputs"].values()}
    return goal in made


def _check_files(link: _Link, release: Release) -> None:
    """Checks shards, rejected images and changes against ``release.json``."""
    wrong: MedmarkError | None = None
    if link.lineage is not None:  # somebody answers for the files: only then are they parsed
        try:
            for name in [shard for shard, _, _ in release.shards] + ["changes.json"] * (release.changes is not None):
                _regular(release.path / name, "get the release again")
            release.verify()
        except MedmarkError as error:
            wrong = error
    known = link.lineage is not None and wrong is None
    for name, sha256, rows in release.shards:
        test = partial(_counted, rows) if known else partial(_same, link.folder / name, sha256)
        link.check(name, "shard", sha256, test)
    if release.rejected is not None and release.schema_version == 1:
        link.check("rejected.parquet", "rejected", _stated(release.rejected), lambda: _named(link, release.rejected))
    if release.changes is not None:
        link.check("changes.json", "changes", _stated(release.changes), lambda: _read_changes(link, release))
    if wrong is not None and link.sound:
        link.note("release.json", "release", release.digest, BROKEN, str(wrong))


def _stated(entry: object) -> str | None:
    return entry.get("sha256") if isinstance(entry, dict) and isinstance(entry.get("sha256"), str) else None


def _named(link: _Link, entry: object) -> str:
    if not isinstance(entry, dict) or entry.get("file") != "rejected.parquet" or _stated(entry) is None:
        raise MedmarkError(f"damaged release.json: {link.folder} names other rejected images; get the release again")
    return _same(link.folder / "rejected.parquet", entry["sha256"])


def _counted(rows: int) -> str:
    return f"{rows} images"


def _read_changes(link: _Link, release: Release) -> str:
    path = link.folder / "changes.json"
    _regular(path, "get the release again")
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise MedmarkError(f"list of changes is larger than {MAX_MANIFEST_BYTES} bytes: {path}; get the release again")
    changes = release.read_changes()
    try:
        if changes is None or set(changes) != {"schema_version", "parent", "drop", *LISTS}:
            raise ValueError("its fields are not those of a list of changes")
        if changes["schema_version"] != CHANGES_SCHEMA_VERSION:
            raise ValueError(f"this medmark reads version {CHANGES_SCHEMA_VERSION}")
        if changes["parent"] != release.parent:
            raise ValueError("it names another parent than release.json")
        for name in LISTS:
            if not all(isinstance(one, str) for one in changes[name]) or len(set(changes[name])) != len(changes[name]):
                raise ValueError(f"{name} is no list of different ids")
        if link.lineage is not None and changes["drop"] != link.lineage.record["drop"]["digest"]:
            raise ValueError("it names another drop than lineage.json")
    except (ValueError, TypeError) as error:
        raise MedmarkError(f"damaged list of changes: {path} ({error}); get the release again") from error
    link.changes = changes
    return ", ".join(f"{len(changes[name])} {name}" for name in LISTS[:3])


def _check_commitment(
    link: _Link, release: Release | MarkedModel, public_key: Ed25519PublicKey | None, timestamp_roots: str | Path | None
) -> None:
    """Checks the commitment and its time stamp against the lineage that names them."""
    lineage, path, stamp = link.lineage, link.folder / COMMITMENT, link.folder / TIMESTAMP
    if lineage is None:
        for file, kind in ((path, "commitment"), (stamp, "timestamp")):
            if file.exists():
                link.note(file.name, kind, None, UNCHECKED, "no sound lineage.json names it")
        return
    if lineage.commitment_sha256 is None and path.exists():
        link.note(COMMITMENT, "commitment", None, BROKEN, f"not named by lineage.json: {path}; take it away")
    if lineage.timestamp_sha256 is None and stamp.exists():
        link.note(TIMESTAMP, "timestamp", None, BROKEN, f"not named by lineage.json: {stamp}; take it away")
    committed, stamped = lineage.commitment_sha256, lineage.timestamp_sha256
    if committed is None:
        return

    def commitment() -> str:
        _same(path, committed)
        if public_key is None:
            return "signature not checked"
        link.commitment = verify_commitment(path, public_key, release_digest=release.digest)
        return f"evidence committed to at {link.commitment['signed_at']}, as the signer says"

    def timestamp() -> str:
        if stamped is None:
            raise MedmarkError(f"no time stamp: {path} has none; verify without root certificates")
        _same(stamp, stamped)
        if timestamp_roots is None:
            return "the one that was signed; its time was not checked: give the authority's root certificates"
        token = read_small(stamp, "time stamp", "get it again")
        data = read_small(path, "commitment", "get it again")
        time = verify_timestamp(token, data, timestamp_roots, stamp)
        link.timestamp = time.isoformat().replace("+00:00", "Z")
        return f"a time stamp authority saw the commitment at {link.timestamp}"

    fits = link.check(COMMITMENT, "commitment", committed, commitment)
    if stamped is None and timestamp_roots is None:
        return
    if fits:
        link.check(TIMESTAMP, "timestamp", stamped, timestamp)
    else:
        link.note(TIMESTAMP, "timestamp", stamped, UNCHECKED, "its commitment does not hold")


def _compare(child: _Link, parent: _Link) -> None:
    """Checks what a release says about the one before it against that one."""
    if child.lineage is not None and parent.lineage is not None:
        stated = child.lineage.parent_lineage_sha256
        if stated != parent.lineage.sha256:
            says = f"not the lineage.json that {child.folder.name} names: {parent.folder / LINEAGE}; get it again"
            parent.note(LINEAGE, "lineage", stated, BROKEN, says)
    stated_changes = child.changes
    if stated_changes is None:
        return
    if not child.sound or not parent.sound:
        child.note("changes.json", "difference", None, UNCHECKED, "a release on either side is broken")
        return
    child.check("changes.json", "difference", None, lambda: _recompute(child, parent, stated_changes))


def _recompute(child: _Link, parent: _Link, stated: dict) -> str:
    """Checks ``changes.json`` against the difference between two sound releases."""
    before, after = parent.images, child.images
    found = {
        "added": after.keys() - before.keys(),
        "changed": {one for one in after.keys() & before.keys() if after[one] != before[one]},
        "withdrawn": before.keys() - after.keys(),
    }
    path, again = child.folder / "changes.json", "ask the owner for a right release"
    for name, ids in found.items():
        wrong = sorted(ids ^ set(stated[name]))
        if wrong:
            said = "lists" if wrong[0] in stated[name] else "does not list"
            raise MedmarkError(f"not what changed: {path} {said} {wrong[0][:128]} as {name}; {again}")
    buried = set((parent.changes or {"tombstones": []})["tombstones"]) | found["withdrawn"]
    if buried != set(stated["tombstones"]):
        one = sorted(buried ^ set(stated["tombstones"]))[0][:128]
        raise MedmarkError(f"tombstones are not those of the releases before: {path}, {one}; {again}")
    risen = sorted(buried & after.keys())
    if risen:
        raise MedmarkError(f"withdrawn image is back: {risen[0]} in {child.folder}; {again}")
    return "what was added, changed and withdrawn is as it says"


def _index(release: Release) -> dict[str, tuple]:
    """Returns what an update may change of each image, the digest of its bytes first, by image id."""
    columns = ["image_id", "sha256", "label", "patient_id", "split", "bits", "dicom"]
    return {
        r.image_id: (r.sha256, r.label, r.patient_id, r.split, r.bits, r.dicom)
        for r in release.records(columns=columns)
    }


def _check_raw(links: list[_Link], raw: Path, sources: Path) -> list[Origin] | None:
    """Checks the raw files of a drop; returns what the table says about them if it is that of the first release."""
    first = links[-1]
    folder = sources if sources.is_dir() else sources.parent
    name = f"{folder.resolve().name}/sources.parquet"

    def note(status: str, says: str, path: str = name, digest: str | None = None) -> None:
        first.objects.append({"path": path, "kind": "raw", "digest": digest, "status": status, "says": says})

    if first.lineage is None:
        note(UNCHECKED, "the first release was not reached, or its lineage is broken")
        return None
    drop = first.lineage.record["drop"]["digest"]
    try:
        origins = read_origins(folder)
        key = read_patient_key(folder) if (folder / "patients.json").exists() else None
    except MedmarkError as error:
        note(BROKEN, str(error))
        return None
    if drop not in {drop_digest(origins, key), drop_digest(origins, None)}:
        says = f"not the table of the first drop, or changed: {folder / 'sources.parquet'}"
        note(BROKEN, f"{says}; give the first keep's, with its patients.json beside it")
        return None
    note(HOLDS, f"the table of the first drop, {len(origins)} files", digest=drop)
    wrong = 0
    for origin in origins:
        try:
            check_name(origin.source, folder / "sources.parquet")
            _same(raw / PurePosixPath(origin.source), origin.sha256)
        except MedmarkError as error:
            note(BROKEN, str(error), f"raw/{origin.source}", origin.sha256)
            wrong += 1
    if not wrong:
        note(HOLDS, f"{len(origins)} raw files are those of the drop", "raw", drop)
    return origins


def _check_clean(first: _Link, clean: Path, origins: list[Origin] | None) -> None:
    """Checks the clean release against the parent of the first marked one and, if known, the table of the raw drop."""

    def note(status: str, says: str) -> None:
        path = "clean/release.json"
        digest = first.release.parent if first.release else None
        first.objects.append({"path": path, "kind": "clean", "digest": digest, "status": status, "says": says})

    if first.release is None or first.release.changes is not None:
        note(UNCHECKED, "the first release was not reached")
        return
    try:
        release = Release(clean)
        if release.digest != first.release.parent:
            raise MedmarkError(
                f"not the clean release: {clean} has the digest {release.digest}; give the one of the run"
            )
        release.verify()
        if origins is not None:
            stated = {one.image_id: one.image_sha256 for one in origins if one.image_id is not None}
            if stated != {one: digest for one, (digest, *_) in _index(release).items()}:
                raise MedmarkError(
                    f"clean release is not of the raw drop's table: {clean}; give the keep of its own run"
                )
        note(
            HOLDS,
            f"what the {'model was trained on' if isinstance(first.release, MarkedModel) else 'first marked release was made from'}",
        )
    except MedmarkError as error:
        note(BROKEN, str(error))


def _regular(path: Path, remedy: str) -> None:
    """Refuses links and whatever else may lead out of the folder or never end."""
    if path.is_symlink() or path.parent.is_symlink() or not path.is_file():
        raise MedmarkError(f"missing, or no plain file: {path}; {remedy}")


def _same(path: Path, sha256: str) -> str:
    try:
        if not path.is_file():
            raise MedmarkError(f"missing: {path}; get it again")
        if file_sha256(path) != sha256:
            raise MedmarkError(f"changed: {path}; get it again")
    except (OSError, ValueError) as error:
        raise MedmarkError(f"cannot be read: {path} ({error}); check its rights") from error
    return "its digest is right"


def _without_paths(found: dict, hidden: list[str | Path]) -> dict:
    """The same without the folders of this machine, which the reader of a report has no business with."""
    says = found["says"]
    for path in hidden:
        says = says.replace(f"{path}/", "").replace(str(path), Path(path).name)
    return {**found, "says": " ".join(says.split())}


def _summary(link: _Link) -> dict:
    """What is public of a release, for readers and for the picture."""
    release, lineage, commitment = link.release, link.lineage, link.commitment
    return {
        "path": link.folder.name,
        "digest": release.digest if release else None,
        "name": release.name if release else None,
        "version": release.version if release else None,
        "images": len(release) if isinstance(release, Release) else None,
        **({"architecture": release.stated["architecture"]} if isinstance(release, MarkedModel) else {}),
        "parent": release.parent if release else None,
        "changes": {name: len(link.changes[name]) for name in LISTS} if link.changes else None,
        "record": lineage.record if lineage else None,
        "lineage_sha256": lineage.sha256 if lineage else None,
        "signed_by": lineage.signed_by if lineage else None,
        "signed_at": lineage.signed_at if lineage else None,
        "commitment_sha256": lineage.commitment_sha256 if lineage else None,
        "committed_at": commitment["signed_at"] if commitment else None,
        "timestamp": link.timestamp,
        "broken": [found["path"] for found in link.objects if found["status"] == BROKEN],
    }
