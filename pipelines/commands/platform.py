"""Services, and what lies in an object store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from medmark.pipelines.commands.options import Debug, Out

app = typer.Typer()


@app.command("up")
def up_command(
    folder: Annotated[Path, typer.Argument(help="Where data, keys and logs lie; made if missing.")],
    s3_port: Annotated[int, typer.Option("--s3-port", help="Of the object store; 0: last time's, or a free one.")] = 0,
    mlflow_port: Annotated[int, typer.Option("--mlflow-port", help="Of MLflow, likewise.")] = 0,
    retention_days: Annotated[
        int | None, typer.Option("--retention-days", help="How long a release cannot be deleted; 1 in a new folder.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Start an object store and an MLflow server on this machine."""
    from medmark.components.platform.services import up

    services = up(folder, s3_port=s3_port, mlflow_port=mlflow_port, retention_days=retention_days)
    print(f"object store: {services.s3}")
    print(f"MLflow: {services.mlflow}  (export MLFLOW_TRACKING_URI={services.mlflow})")
    for identity in ("release", "evidence"):
        print(f"for {identity}: export MEDMARK_S3_CREDENTIALS={services.credentials[identity]}")


@app.command("down")
def down_command(
    folder: Annotated[Path, typer.Argument(help="The folder of 'medmark up'.")], debug: Debug = False
) -> None:
    """End the services; data and keys stay."""
    from medmark.components.platform.services import down

    print(f"ended: {', '.join(down(folder)) or 'nothing was running'}")


@app.command("status")
def status_command(
    folder: Annotated[Path, typer.Argument(help="The folder of 'medmark up'.")], debug: Debug = False
) -> None:
    """Show whether the services run; exit code 3 if one does not answer."""
    from medmark.components.platform.services import status

    states = status(folder)
    for name, state in states.items():
        print(
            f"{name}: {'answers' if state.answers else 'runs, no answer' if state.running else 'down'}  {state.address}"
        )
    if not all(state.answers for state in states.values()):
        raise typer.Exit(3)


@app.command("publish")
def publish_command(
    release: Annotated[Path, typer.Argument(help="The marked release.")],
    uri: Annotated[str, typer.Argument(help="s3://bucket/prefix; the digest is added.")],
    debug: Debug = False,
) -> None:
    """Store a release in an object store; MEDMARK_S3_CREDENTIALS says which."""
    from medmark.components.platform.publish import publish
    from medmark.components.platform.store import Store

    print_published(publish(release, uri, Store.from_environment()))


@app.command("publish-evidence")
def publish_evidence_command(
    evidence: Annotated[Path, typer.Argument(help="The private evidence of a release.")],
    uri: Annotated[str, typer.Argument(help="s3://bucket/prefix, where no release lies; the digest is added.")],
    debug: Debug = False,
) -> None:
    """Store evidence in a bucket of its own; MEDMARK_S3_CREDENTIALS must open no release's bucket."""
    from medmark.components.platform.publish import publish_evidence
    from medmark.components.platform.store import Store

    print_published(publish_evidence(evidence, uri, Store.from_environment()))


def print_published(done) -> None:
    """Where it lies, and for how long at least."""
    print(done.uri)
    print(f"{done.sent} files sent" if done.sent else "already published, nothing sent", end="; ")
    print(f"locked until {done.locked_until}" if done.locked_until else "not locked")


@app.command("fetch")
def fetch_command(
    uri: Annotated[str, typer.Argument(help="The address that 'medmark publish' printed.")],
    out: Out,
    debug: Debug = False,
) -> None:
    """Get a release or evidence from an object store and check every digest."""
    from medmark.components.platform.publish import fetch_evidence, fetch_release
    from medmark.components.platform.store import Store

    store = Store.from_environment()
    (fetch_evidence if "evidence.json" in store.list(uri) else fetch_release)(uri, out, store)
    print(out)
