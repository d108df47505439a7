"""``medmark track``: runs that MLflow has not taken yet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from medmark.pipelines.commands.options import Debug

app = typer.Typer()
track_app = typer.Typer(no_args_is_help=True, help="Manage what is logged to MLflow.")
app.add_typer(track_app, name="track")


@track_app.command("sync")
def sync_command(
    folders: Annotated[list[Path], typer.Argument(help="Folders of runs, or folders above them.")],
    debug: Debug = False,
) -> None:
    """Send runs that could not be logged to MLFLOW_TRACKING_URI, and remove them here."""
    from medmark.components.tracking.runs import sync

    sent: list[Path] = []
    try:
        sync(folders, sent)
    finally:
        for path in sent:
            print(f"sent: {path.parent.parent}")
    if not sent:
        print("nothing to send")
