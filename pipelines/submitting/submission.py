"""What is submitted, and the key that makes it one of a kind."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from medmark.components.base.digests import HEX, canonical_json
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.release import MAX_MANIFEST_BYTES
from medmark.components.delivery.drops import listing_digest, raw_files
from medmark.components.profiles import PROFILES
from medmark.components.storage.place import Place, parse
from medmark.components.storage.store import Store


@dataclass(frozen=True)
class Submission:
    """A pipeline with its input in the object store.

    Attributes:
        pipeline: ``mark-release`` or ``update-release``.
        release: where the release lies that it starts from, ``s3://bucket/prefix/<digest>``.
        release_digest: of that one.
        release_version: of that one.
        parameters: of the run, but for seeds, which are drawn when it starts.
        drop: of an update, where the raw drop lies.
        drop_listing: digest of names, sizes and ETags there.
        evidence, keep: of an update, where those of the release lie.
    """

    pipeline: str
    release: str
    release_digest: str
    release_version: str
    parameters: dict
    drop: str | None = None
    drop_listing: str | None = None
    evidence: str | None = None
    keep: str | None = None

    @property
    def key(self) -> str:
        """SHA-256 over pipeline, release digest, parameters, and the drop's place and listing."""
        parts = [self.pipeline, self.release_digest, self.parameters, self.drop, self.drop_listing]
        return hashlib.sha256(canonical_json({"submission": parts})).hexdigest()

    @property
    def stated(self) -> dict:
        """What its record says of it, see :func:`medmark.components.delivery.submissions.new_record`."""
        drop = {"drop": {"uri": self.drop, "listing_sha256": self.drop_listing}} if self.drop else {}
        return {"key": self.key, "pipeline": self.pipeline, "release_digest": self.release_digest, **drop}

    @property
    def name(self) -> str:
        """Name of its run."""
        return f"{self.pipeline}-{self.key}"


def of_mark_release(
    release_json: str, store: Store, *, profile: str, settings: dict[str, str], version: str
) -> Submission:
    """A first marking of an ingested release.

    Args:
        release_json: address of the ingested release's ``release.json``.
        store: that may read it.
        profile, settings, version: see :func:`medmark.pipelines.mark_release.run.run_mark_release`.

    Raises:
        MedmarkError: no such release, a marked one, an unknown profile or setting, or the store fails.
    """
    if profile not in PROFILES:
        raise MedmarkError(f"unknown profile: {profile!r}; use one of {', '.join(PROFILES)}")
    chosen = PROFILES[profile].with_settings(settings)
    place, manifest = _release(release_json, store)
    if manifest["parent"] is not None:
        raise MedmarkError(f"marked already: {place} has a parent; give the release.json that 'medmark ingest' made")
    parameters = {"profile": profile, **asdict(chosen), "version": version}
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
    """A next release.

    Args:
        release_json: address of the previous marked release's ``release.json``.
        store: that may read it.
        drop: where the raw drop lies.
        drop_store: that may read the drop, which is as private as the evidence.
        evidence, keep: where the previous release's lie.
        options: see :func:`medmark.components.dataset.drop.read_drop`; what is None is left out.
        version: of the new release; the previous one plus 1 when None.

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
        str(parse(drop)),
        listing_digest(listing),
        str(parse(evidence)),
        str(parse(keep)),
    )


def read_manifest(place: Place, store: Store) -> dict | None:
    """``parent`` and ``version`` of a release by its place; None if no complete one is there.

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
