"""What is submitted, and the key by which the same submission is recognised."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from medmark.components.base.digests import HEX, canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.release import MAX_MANIFEST_BYTES
from medmark.components.delivery.drops import listing_digest, raw_files
from medmark.components.delivery.places import Places, is_place
from medmark.components.profiles import PROFILES, Setting
from medmark.components.storage.place import Place, parse
from medmark.components.storage.store import Store

# what the commands say of a drop unless they are told otherwise; a part of the submission's key
DROP_OPTIONS = {"uncertain": "ignore", "quarantine": False}
LOCKED_WITH = {"image_mode": "RGB"}  # how lock-release reads a release: in colours if it has any


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
        pipeline: ``mark-release``, ``update-release``, ``lock-release`` or ``mark-segmenter``.
        release: address of the release that it starts from, ``s3://bucket/prefix/<digest>``.
        release_digest: its digest.
        release_version: its version.
        parameters: parameters of the run, without seeds, which are drawn when it starts; JSON values.
        drop: what an update takes in; None for any other pipeline.
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


def of_lock_release(
    release_json: str,
    store: Store,
    *,
    recipients: Mapping[str, str],
    text: str,
    logos: Sequence[str],
    profile: str,
    settings: Mapping[str, Setting],
    version: str,
) -> Submission:
    """Describes the locking of a release.

    Args:
        release_json: address of the release's ``release.json``.
        store: object store with credentials that may read it.
        recipients, text, profile, settings, version: see :func:`medmark.pipelines.lock_release.run.run_lock_release`.
        logos: PNG files, as paths or ``s3://bucket/name``; the credentials for evidence open those.

    Raises:
        MedmarkError: no such release, one for segmentation, an option that cannot be used, or the store fails.
    """
    from medmark.pipelines.lock_release.run import check_lock_options

    with Places() as places:
        files = [places.read(logo, raw=True, private=True) for logo in logos]
        chosen = check_lock_options(profile, settings, recipients=recipients, text=text, logos=files)
        given = [{"file": _reached(logo), "sha256": file_sha256(file)} for logo, file in zip(logos, files, strict=True)]
    place, manifest = _release(release_json, store)
    _refuse_task(place, manifest, "classification", "'medmark submit mark-segmenter' takes it")
    shown = {"logos": given} if given else {"text": text}
    parameters = {"profile": profile, **asdict(chosen), "version": version, "recipients": dict(recipients), **shown}
    return Submission("lock-release", str(place), _digest(place), manifest["version"], parameters)


def of_mark_segmenter(
    release_json: str,
    store: Store,
    *,
    text: str,
    profile: str,
    settings: Mapping[str, Setting],
    name: str,
    version: str,
    model: str | None = None,
    drawing: dict | None = None,
) -> Submission:
    """Describes the marking of a segmenter.

    Args:
        release_json: address of the ``release.json`` of a release for segmentation.
        store: object store with credentials that may read it.
        text, profile, settings, name, version: see :func:`medmark.pipelines.mark_segmenter.run.run_mark_segmenter`.
        model: safetensors file of a trained segmenter to mark, as a path or ``s3://bucket/name``; the credentials for evidence open that.
        drawing: as of :func:`of_mark_release`.

    Raises:
        MedmarkError: no such release, one for classification, an option that cannot be used, or the store fails.
    """
    from medmark.pipelines.mark_segmenter.run import check_segmenter_options

    weights: dict[str, str] = {}
    with Places() as places:
        file = places.read(model, raw=True, private=True) if model else None
        chosen = check_segmenter_options(profile, settings, text=text, model=file)
        if model and file:
            weights = {"file": _reached(model), "sha256": file_sha256(file)}
    place, manifest = _release(release_json, store)
    _refuse_task(place, manifest, "segmentation", "ingest it with its masks ('medmark ingest --masks')")
    parameters = {"profile": profile, **asdict(chosen), "text": text, "name": name, "version": version}
    parameters |= {**({"weights": weights} if weights else {}), **({"drawing": drawing} if drawing else {})}
    return Submission("mark-segmenter", str(place), _digest(place), manifest["version"], parameters)


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
    """Reads ``parent``, ``version`` and ``task`` of a release; None if no complete one is there.

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
        return {"parent": parent, "version": version, "task": manifest.get("task", "classification")}
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


def _refuse_task(place: Place, manifest: dict, task: str, remedy: str) -> None:
    if manifest["task"] != task:
        raise MedmarkError(f"for {manifest['task']!r:.40}, not for {task}: {place}; {remedy}")


def _reached(file: str) -> str:
    """A file as the run reaches it from any folder."""
    return file if is_place(file) else str(Path(file).resolve())


def _digest(place: Place) -> str:
    return place.prefix.rpartition("/")[2]
