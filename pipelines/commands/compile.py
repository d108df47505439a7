"""``medmark compile``."""

from __future__ import annotations

import typer
from medmark.pipelines.commands.options import Debug, Out

app = typer.Typer()


@app.command("compile")
def compile_command(out: Out, debug: Debug = False) -> None:
    """Compile every pipeline to IR YAML, for a Kubeflow cluster."""
    from medmark.components.delivery.places import Places, shown
    from medmark.pipelines.compile import compile_all

    with Places() as places:
        for path in compile_all(places.write(out)):
            print(shown(out, path.name))
