"""``medmark up``, ``down`` and ``status``: an object store and an MLflow server on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from medmark.pipelines.commands.options import Debug

app = typer.Typer()
Folder = Annotated[str, typer.Argument(help="Folder that was given to 'medmark up'.")]


@app.command("up")
def up_command(
    folder: Annotated[str, typer.Argument(help="Folder for data, keys and logs; made if missing.")],
    s3_port: Annotated[
        int, typer.Option("--s3-port", help="Port of the object store; 0 takes the last one or a free one.")
    ] = 0,
    mlflow_port: Annotated[
        int, typer.Option("--mlflow-port", help="Port of MLflow; 0 takes the last one or a free one.")
    ] = 0,
    retention_days: Annotated[
        int | None,
        typer.Option("--retention-days", help="Days for which a release cannot be deleted; 1 in a new folder."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Start an object store and an MLflow server on this machine."""
    from medmark.pipelines.services import up

    services = up(_on_this_machine(folder), s3_port=s3_port, mlflow_port=mlflow_port, retention_days=retention_days)
    print(f"object store: {services.s3}")
    print(f"MLflow: {services.mlflow}  (export MLFLOW_TRACKING_URI={services.mlflow})")
    for identity in ("release", "evidence"):
        print(f"for {identity}: export MEDMARK_S3_CREDENTIALS={services.credentials[identity]}")


@app.command("down")
def down_command(folder: Folder, debug: Debug = False) -> None:
    """Stop the services; data and keys stay."""
    from medmark.pipelines.services import down

    print(f"ended: {', '.join(down(_on_this_machine(folder))) or 'nothing was running'}")


@app.command("status")
def status_command(folder: Folder, debug: Debug = False) -> None:
    """Show whether the services run. The exit code is 3 if one does not answer."""
    from medmark.pipelines.services import status

    states = status(_on_this_machine(folder))
    for name, state in states.items():
        says = "answers" if state.answers else "runs, no answer" if state.running else "down"
        print(f"{name}: {says}  {state.address}")
    if not all(state.answers for state in states.values()):
        raise typer.Exit(3)


def _on_this_machine(folder: str) -> Path:
    from medmark.components.delivery.places import local

    return local(folder, "give the folder of 'medmark up'")
