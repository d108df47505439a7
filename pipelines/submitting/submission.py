"""What is submitted, and the key by which the same submission is recognised."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from medmark.components.base.digests import HEX, canonical_json
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.release import MAX_MANIFEST_BYTES
from medmark.components.delivery.drops import listing_digest, raw_files
from medmark.components.profiles import PROFILES, Setting
from medmark.components.storage.place import Place, parse
from medmark.components.storage.store import Store

# what the commands say of a drop unless they are told otherwise; a part of the submission's key
DROP_OPTIONS = {"uncertain": "ignore", "quarantine": False}


@dataclass(frozen=True)
class Drop:
    """What an update needs beside the previous release.

    Attributes:
        uri: address of the raw drop.
        listing: digest of names, sizes and ETags there, see :func:`medmark.components.delivery.drops.listing_digest`.
        evidence: address of the previous release's evidence.
        keep: address of what was kept for its updates.
    """

    uri: str
    listing: str
    evidence: str
    keep: str


@dataclass(frozen=True)
class Submission:
    """A pipeline with its input in the object store.

    Attributes:
        pipeline: ``mark-release`` or ``update-release``.
        release: address of the release that it starts from, ``s3://bucket/prefix/<digest>``.
        release_digest: its digest.
        release_version: its version.
        parameters: parameters of the run, without seeds, which are drawn when it starts; JSON values.
        drop: what an update takes in; None for a first marking.
    """

    pipeline: str
    release: str
    release_digest: str
    release_version: str
    parameters: dict
    drop: Drop | None = None

    @property
    def key(self) -> str:
        """SHA-256 over pipeline, release digest, parameters, and the drop's address and listing."""
        drop = [self.drop.uri, self.drop.listing] if self.drop else [None, None]
        parts = [self.pipeline, self.release_digest, self.parameters, *drop]
        return hashlib.sha256(canonical_json({"submission": parts})).hexdigest()

    @property
    def stated(self) -> dict:
        """What its record says of it, see :func:`medmark.components.delivery.submission_records.new_record`."""
        drop = {"drop": {"uri": self.drop.uri, "listing_sha256": self.drop.listing}} if self.drop else {}
        return {"key": self.key, "pipeline": self.pipeline, "release_digest": self.release_digest, **drop}

    @property
    def name(self) -> str:
        """Name of its run."""
        return f"{self.pipeline}-{self.key}"


def of_mark_release(
    release_json: str,
    store: Store,
    *,
    profile: str,
    settings: Mapping[str, Setting],
    version: str,
    drawing: dict | None = None,
) -> Submission:
    """Describes the first marking of an ingested release.

    Args:
        release_json: address of the ingested release's ``release.json``.
        store: object store with credentials that may read it.
        profile, settings, version: see :func:`medmark.pipelines.mark_release.run.run_mark_release`.
        drawing: of :func:`medmark.pipelines.run_arguments.drawing_argument`; None or empty: the run draws the key.

    Raises:
        MedmarkError: no such release, a marked one, an unknown profile or setting, or the store fails.
    """
    if profile not in PROFILES:
        raise MedmarkError(f"unknown profile: {profile!r}; use one of {', '.join(PROFILES)}")
    chosen = PROFILES[profile].with_settings(settings)
    place, manifest = _release(release_json, store)
    if manifest["parent"] is not None:
        raise MedmarkError(f"marked already: {place} has a parent; give the release.json that 'medmark ingest' made")
    parameters = {"profile": profile, **asdict(chosen), "version": version, **({"drawing": drawing} if drawing else {})}
    return Submission("mark-release", str(place), _digest(place), manifest["version"], parameters)


def of_update_release(
    release_json: str,
    store: Store,
    *,
    drop: str,
    drop_store: Store,
    evidence: str,
    keep: str,
    options: dict,
    version: str | None = None,
) -> Submission:
    """Describes the making of a next release.

    Args:
        release_json: address of the previous marked release's ``release.json``.
        store: object store with credentials that may read it.
        drop: address of the raw drop.
        drop_store: object store with credentials that may read the drop, which is as private as the evidence.
        evidence: address of the previous release's evidence, with its digest.
        keep: address of what was kept for updates of that release, with its digest.
        options: keyword arguments of :func:`medmark.components.dataset.drop.read_drop`; those that are None are left out.
        version: version of the new release; the previous one plus 1 when None.

    Raises:
        MedmarkError: no such release, one that was never marked, nothing in the drop, or the store fails.
    """
    place, manifest = _release(release_json, store)
    if manifest["parent"] is None:
        raise MedmarkError(f"never marked: {place} has no parent; give the release.json of a marked release")
    for what, uri in (("evidence", evidence), ("keep", keep)):
        if not HEX.fullmatch(parse(uri).prefix.rpartition("/")[2]):
            raise MedmarkError(f"no digest at the end of --{what} {uri}; give the address that publishing it printed")
    listing = drop_store.listing(drop)
    if not raw_files(listing):
        raise MedmarkError(f"no raw file in {parse(drop)}; check the address")
    parameters = {name: value for name, value in {**options, "version": version}.items() if value is not None}
    return Submission(
        "update-release",
        str(place),
        _digest(place),
        manifest["version"],
        parameters,
        Drop(str(parse(drop)), listing_digest(listing), str(parse(evidence)), str(parse(keep))),
    )


def read_manifest(place: Place, store: Store) -> dict | None:
    """Reads ``parent`` and ``version`` of a release; None if no complete one is there.

    Raises:
        MedmarkError: ``release.json`` does not match the digest, or is no release's.
    """
    content = store.read(place / "release.json", MAX_MANIFEST_BYTES)
    if content is None:
        return None
    if hashlib.sha256(content).hexdigest() != _digest(place):
        raise MedmarkError(f"content does not match its digest: {place}/release.json; do not use it, publish it again")
    try:
        manifest = json.loads(content)
        parent, version = manifest["parent"], manifest["version"]
        if not (parent is None or HEX.fullmatch(parent)) or not isinstance(version, str):
            raise ValueError("no digest, or no version")
        return {"parent": parent, "version": version}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MedmarkError(f"damaged release.json: {place} ({error!r}); publish the release again") from error


def _release(release_json: str, store: Store) -> tuple[Place, dict]:
    file = parse(release_json)
    prefix, _, name = file.prefix.rpartition("/")
    place = Place(file.bucket, prefix)
    if name != "release.json" or not HEX.fullmatch(_digest(place)):
        raise MedmarkError(f"not a release's address: {release_json}; give s3://bucket/prefix/<digest>/release.json")
    manifest = read_manifest(place, store)
    if manifest is None:
        raise MedmarkError(f"no such release: {release_json}; check the address, or publish it")
    return place, manifest


def _digest(place: Place) -> str:
    return place.prefix.rpartition("/")[2]
