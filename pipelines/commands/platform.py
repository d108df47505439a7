"""Services, and what lies in an object store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from medmark.pipelines.commands.options import Debug

app = typer.Typer()


@app.command("up")
def up_command(
    folder: Annotated[str, typer.Argument(help="Where data, keys and logs lie; made if missing.")],
    s3_port: Annotated[int, typer.Option("--s3-port", help="Of the object store; 0: last time's, or a free one.")] = 0,
    mlflow_port: Annotated[int, typer.Option("--mlflow-port", help="Of MLflow, likewise.")] = 0,
    retention_days: Annotated[
        int | None, typer.Option("--retention-days", help="How long a release cannot be deleted; 1 in a new folder.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Start an object store and an MLflow server on this machine."""
    from medmark.pipelines.services import up

    services = up(_own(folder), s3_port=s3_port, mlflow_port=mlflow_port, retention_days=retention_days)
    print(f"object store: {services.s3}")
    print(f"MLflow: {services.mlflow}  (export MLFLOW_TRACKING_URI={services.mlflow})")
    for identity in ("release", "evidence"):
        print(f"for {identity}: export MEDMARK_S3_CREDENTIALS={services.credentials[identity]}")


@app.command("down")
def down_command(
    folder: Annotated[str, typer.Argument(help="The folder of 'medmark up'.")], debug: Debug = False
) -> None:
    """End the services; data and keys stay."""
    from medmark.pipelines.services import down

    print(f"ended: {', '.join(down(_own(folder))) or 'nothing was running'}")


@app.command("status")
def status_command(
    folder: Annotated[str, typer.Argument(help="The folder of 'medmark up'.")], debug: Debug = False
) -> None:
    """Show whether the services run; exit code 3 if one does not answer."""
    from medmark.pipelines.services import status

    states = status(_own(folder))
    for name, state in states.items():
        print(
            f"{name}: {'answers' if state.answers else 'runs, no answer' if state.running else 'down'}  {state.address}"
        )
    if not all(state.answers for state in states.values()):
        raise typer.Exit(3)


def _own(folder: str) -> Path:
    """The folder of the services."""
    from medmark.components.delivery.places import local

    return local(folder, "give the folder of 'medmark up'")


@app.command("publish")
def publish_command(
    release: Annotated[str, typer.Argument(help="The marked release.")],
    uri: Annotated[str, typer.Argument(help="s3://bucket/prefix; the digest is added.")],
    debug: Debug = False,
) -> None:
    """Store a release in an object store; MEDMARK_S3_CREDENTIALS says which."""
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
    evidence: Annotated[str, typer.Argument(help="The private evidence of a release, or what is kept for updates.")],
    uri: Annotated[str, typer.Argument(help="s3://bucket/prefix, where no release lies; the digest is added.")],
    debug: Debug = False,
) -> None:
    """Store evidence, or the folder keep, in a bucket of its own.

    MEDMARK_S3_EVIDENCE_CREDENTIALS says which, or else MEDMARK_S3_CREDENTIALS; those of the evidence must open no release's
    bucket.
    """
    from medmark.components.delivery.places import Places
    from medmark.components.delivery.publish import publish_evidence, publish_keep
    from medmark.components.storage.store import Store

    with Places() as places:
        folder = places.read(evidence, private=True)
        send = publish_keep if (folder / "keep.json").is_file() else publish_evidence
        print_published(send(folder, uri, Store.for_evidence()))


def print_published(done) -> None:
    """Where it lies, and for how long at least."""
    print(done.uri)
    print(f"{done.sent} files sent" if done.sent else "already published, nothing sent", end="; ")
    print(f"locked until {done.locked_until}" if done.locked_until else "not locked")


@app.command("fetch")
def fetch_command(
    uri: Annotated[str, typer.Argument(help="The address that 'medmark publish' printed.")],
    out: Annotated[str, typer.Option("--out", help="Folder to write; must be empty or absent.")],
    debug: Debug = False,
) -> None:
    """Get a release, evidence, or what was kept for updates from an object store, and check every digest."""
    from medmark.components.delivery.places import local
    from medmark.components.delivery.publish import EVIDENCE, KEEP, fetch_evidence, fetch_keep, fetch_release, kind_of
    from medmark.components.storage.retry import Denied
    from medmark.components.storage.store import Store

    folder, store = local(out, "give a folder; 'medmark publish' stores it elsewhere"), Store.from_environment()
    try:
        names = store.list(uri)
    except Denied:
        store = Store.for_evidence()
        names = store.list(uri)
    get = {EVIDENCE: fetch_evidence, KEEP: fetch_keep}.get(kind_of(names), fetch_release)
    get(uri, folder, store)
    print(out)
