"""The ``medmark`` command."""

from __future__ import annotations

import sys

import typer
from medmark.components.base.errors import MedmarkError
from medmark.components.base.termination import leave_message
from medmark.components.base.text import one_line, reason_of
from medmark.pipelines.commands import (
    audit,
    compile,
    dataset,
    lineage,
    locking,
    publish,
    reissue,
    run,
    services,
    submit,
    track,
)

HELP = "Mark data sets of medical images, and recognise models that were trained on them."
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=HELP)
for module in (run, audit, lineage, locking, dataset, reissue, compile, services, publish, submit, track):
    app.add_typer(module.app)


def main() -> None:
    """Runs the command; an error becomes one line and exit code 1, and keeps its traceback with ``--debug``. A pod keeps the line, too."""
    try:
        app()
    except MedmarkError as error:
        leave_message(str(error))
        if "--debug" in sys.argv:
            raise
        print(f"medmark: {error}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        leave_message(reason_of(error, 2000))
        if "--debug" in sys.argv:
            raise
        text = one_line(error, 2000)
        print(f"medmark: {type(error).__name__}: {text}; run again with --debug to see where", file=sys.stderr)
        sys.exit(1)
