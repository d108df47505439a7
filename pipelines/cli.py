"""The ``medmark`` command."""

from __future__ import annotations

import sys

import typer
from medmark.components.base.errors import MedmarkError
from medmark.components.base.text import one_line
from medmark.pipelines.commands import audit, dataset, lineage, platform, run, submit, track

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
for module in (run, audit, lineage, dataset, platform, submit, track):
    app.add_typer(module.app)


def main() -> None:
    """Entry point: an error becomes one line and exit code 1; with ``--debug`` it keeps its traceback."""
    try:
        app()
    except MedmarkError as error:
        if "--debug" in sys.argv:
            raise
        print(f"medmark: {error}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        text = one_line(error, 2000)
        print(f"medmark: {type(error).__name__}: {text}; run again with --debug to see where", file=sys.stderr)
        sys.exit(1)
