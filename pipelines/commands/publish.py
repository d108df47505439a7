"""``medmark publish``, ``publish-evidence`` and ``fetch``: releases, marked models, evidence and keep in an object store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from medmark.pipelines.commands.options import Debug

if TYPE_CHECKING:
    from medmark.components.delivery.publish import Published

app = typer.Typer()


@app.command("publish")
def publish_command(
    release: Annotated[str, typer.Argument(help="The marked release or model.")],
    uri: Annotated[str, typer.Argument(help="s3://bucket/prefix; the digest is added.")],
    debug: Debug = False,
) -> None:
    """Store a release, or a marked model, in the object store that MEDMARK_S3_CREDENTIALS names."""
    from medmark.components.delivery.places import Places
    from medmark.components.delivery.publish import publish
    from medmark.components.storage.store import Store
    from medmark.components.tracking.registry import promote

    with Places() as places:
        folder = places.read(release)
        done = publish(folder, uri, Store.from_environment())
        print_published(done)
        for model in promote(done.digest, Path(folder).parent):
            print(f"released: {model}")


@app.command("publish-evidence")
def publish_evidence_command(
    evidence: Annotated[str, typer.Argument(help="Folder with the evidence of a release, or the folder keep.")],
    uri: Annotated[str, typer.Argument(help="s3://bucket/prefix without releases; the digest is added.")],
    debug: Debug = False,
) -> None:
    """Store evidence, or the folder keep, in a bucket of its own.

    MEDMARK_S3_EVIDENCE_CREDENTIALS names the object store, or MEDMARK_S3_CREDENTIALS if that is not set. The credentials of the
    evidence must not open a bucket with releases.
    """
    from medmark.components.delivery.places import Places
    from medmark.components.delivery.publish import publish_evidence, publish_keep
    from medmark.components.storage.store import Store

    with Places() as places:
        folder = places.read(evidence, private=True)
        send = publish_keep if (folder / "keep.json").is_file() else publish_evidence
        print_published(send(folder, uri, Store.for_evidence()))


def print_published(done: Published) -> None:
    """Prints the address, and how long the store keeps it at least."""
    print(done.uri)
    print(f"{done.sent} files sent" if done.sent else "already published, nothing sent", end="; ")
    print(f"locked until {done.locked_until}" if done.locked_until else "not locked")


@app.command("fetch")
def fetch_command(
    uri: Annotated[str, typer.Argument(help="The address that 'medmark publish' printed.")],
    out: Annotated[str, typer.Option("--out", help="Folder to write; must be empty or absent.")],
    debug: Debug = False,
) -> None:
    """Fetch a release, a marked model, evidence, or a folder keep from an object store, and check every digest."""
    from medmark.components.delivery.places import local
    from medmark.components.delivery.publish import (
        EVIDENCE,
        KEEP,
        MARKED_MODEL,
        fetch_evidence,
        fetch_keep,
        fetch_model,
        fetch_release,
        kind_of,
    )
    from medmark.components.storage.retry import Denied
    from medmark.components.storage.store import Store

    folder, store = local(out, "give a folder; 'medmark publish' stores it elsewhere"), Store.from_environment()
    try:
        names = store.list(uri)
    except Denied:
        store = Store.for_evidence()
        names = store.list(uri)
    kind = kind_of(names)
    if kind is EVIDENCE:
        fetch_evidence(uri, folder, store)
    elif kind is KEEP:
        fetch_keep(uri, folder, store)
    elif kind is MARKED_MODEL:
        fetch_model(uri, folder, store)
    else:
        fetch_release(uri, folder, store)
    print(out)
