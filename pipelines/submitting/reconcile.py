"""The nightly sweep: submits drops whose event was lost, in the order of their names, each on top of the newest release."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial

from medmark.components.base.digests import HEX
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.release import MAX_MANIFEST_BYTES
from medmark.components.delivery.drops import COMPLETE, listing_digest
from medmark.components.delivery.submission_records import read_records
from medmark.components.storage.place import parse
from medmark.components.storage.store import Store, parallel
from medmark.pipelines.submitting.submission import Submission, of_update_release, read_manifest

Submit = Callable[[Submission], dict]


def reconcile(
    drops: str,
    releases: str,
    evidence: str,
    *,
    store: Store,
    evidence_store: Store,
    options: dict,
    submit: Submit,
) -> Iterator[str]:
    """Submits every complete drop that has no record; ends at the first that fails, because later ones build on it.

    A drop is ``<drops>/<name>/``, complete when it holds the object ``_SUCCESS``.

    Args:
        drops: place of the drops, ``s3://bucket/prefix``.
        releases: place of the marked releases.
        evidence: place of evidence, keep, and records of submissions.
        store: object store with credentials for the releases.
        evidence_store: object store with credentials for the evidence that may also read the drops.
        options: keyword arguments of :func:`medmark.components.dataset.drop.read_drop`.
        submit: does a submission and returns its record.

    Yields:
        One line per drop.

    Raises:
        MedmarkError: a drop fails, or was changed after it was done; there is no release, or no single newest one; evidence is
            missing; or a store fails.
    """
    done = _records_by_drop(evidence, evidence_store)
    names = evidence_store.folders(drops)
    if not names:
        yield f"no drop in {parse(drops)}"
    for position, name in enumerate(names):
        place = parse(drops) / name
        listing = evidence_store.listing(place)
        if COMPLETE not in listing:
            yield f"{name}: not complete, it has no {COMPLETE}; left alone"
            continue
        try:
            known = done.get(str(place), {})
            earlier = known.get(listing_digest(listing))
            if earlier:
                yield f"{name}: done before, {_result(earlier)}"
                continue
            if known:
                raise MedmarkError(
                    f"changed after it was done: {place}; undo that, and put what is new into a new drop"
                )
            newest = read_chain(releases, store)[-1]
            private = find_private(evidence, newest, evidence_store)
            submission = of_update_release(
                f"{parse(releases) / newest}/release.json",
                store,
                drop=str(place),
                drop_store=evidence_store,
                evidence=private["evidence"],
                keep=private["keep"],
                options=options,
            )
            record = submit(submission)
        except MedmarkError as error:
            waiting = len(names) - position - 1
            later = f" ({waiting} after it not looked at)" if waiting else ""
            raise MedmarkError(f"drop {name}{later}: {error}; then run the same command again") from error
        yield f"{name}: done on top of {record['release_digest']}, {_result(record)}"


def _records_by_drop(evidence: str, store: Store) -> dict[str, dict[str, dict]]:
    """Returns records of updates by the digest of the drop's listing, by the drop's address."""
    done: dict[str, dict[str, dict]] = {}
    for record in read_records(evidence, store):
        if record["drop"]:
            done.setdefault(record["drop"]["uri"], {})[record["drop"]["listing_sha256"]] = record
    return done


def _result(record: dict) -> str:
    return f"release {record['result']}" if record["result"] else "nothing changed"


def read_chain(releases: str, store: Store) -> list[str]:
    """Returns the digests of the releases, oldest first; each is the parent of the next.

    Raises:
        MedmarkError: there is none, two are no other's parent, or one is damaged.
    """
    place = parse(releases)
    digests = [name for name in store.folders(place) if HEX.fullmatch(name)]

    def read(digest: str) -> tuple[str, dict | None]:
        return digest, read_manifest(place / digest, store)

    manifests = parallel([partial(read, digest) for digest in digests], "reading releases")
    parents = {digest: manifest["parent"] for digest, manifest in manifests if manifest}
    heads = sorted(set(parents) - set(parents.values()))
    if not heads:
        raise MedmarkError(f"no release in {place}; publish a first one, made with mark-release")
    if len(heads) > 1:
        raise MedmarkError(
            f"{len(heads)} newest releases in {place}: {' and '.join(heads)}; move all but the right one elsewhere"
        )
    chain = heads
    while (parent := parents[chain[0]]) in parents:
        chain = [parent, *chain]
    return chain


def find_private(evidence: str, release_digest: str, store: Store) -> dict[str, str]:
    """Finds the addresses of a release's ``evidence`` and ``keep``.

    Raises:
        MedmarkError: one of them is not there.
    """
    place = parse(evidence)
    digests = [name for name in store.folders(place) if HEX.fullmatch(name)]
    found = {}
    for what in ("evidence", "keep"):

        def of_release(digest: str, manifest: str = f"{what}.json") -> str | None:
            content = store.read(place / digest / manifest, MAX_MANIFEST_BYTES)
            try:
                return digest if content and json.loads(content)["release_digest"] == release_digest else None
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise MedmarkError(f"damaged: {place / digest / manifest} ({error!r}); publish it again") from error

        answers = parallel([partial(of_release, digest) for digest in digests], f"looking for {what}")
        fitting = [digest for digest in answers if digest]
        if not fitting:
            raise MedmarkError(
                f"no {what} of release {release_digest} in {place}; store it with 'medmark publish-evidence'"
            )
        found[what] = str(place / min(fitting))  # of two runs with one result, either
    return found
