"""``medmark reissue``."""

from __future__ import annotations

from typing import Annotated

import typer
from medmark.pipelines.commands.options import Debug, Out
from medmark.pipelines.commands.run import APART, FETCH

app = typer.Typer()


@app.command("reissue")
def reissue_command(
    previous: Annotated[str, typer.Argument(help="Folder of a finished run, with release, evidence and keep.")],
    out: Out,
    debug: Debug = False,
) -> None:
    """Give new ids to a release whose image ids hold file names; images and marks stay as they are."""
    from medmark.components.delivery.places import local
    from medmark.components.poisoning.reissue import reissue

    made = reissue(local(previous, FETCH), local(out, APART))
    print(f"release: {made.path}\ndigest: {made.digest}")
    print("commit to the new evidence and use it in audits from now on")
