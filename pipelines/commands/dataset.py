"""Making, checking and writing out releases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from medmark.pipelines.commands.options import (
    Classes,
    Debug,
    Label,
    Out,
    PathColumn,
    PatientColumn,
    Quarantine,
    Root,
    Seed,
    Uncertain,
    Where,
    ingest_options,
)

app = typer.Typer()


@app.command()
def phantom(
    out: Out,
    count: Annotated[int, typer.Option("--count", help="Images, half of each class.")] = 800,
    size: Annotated[int, typer.Option("--size", help="Side in pixels.")] = 128,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Make chest phantoms: a folder per class."""
    from medmark.components.dataset.phantom import make_phantoms

    print(make_phantoms(out, count=count, size=size, seed=seed))


@app.command()
def ingest(
    source: Annotated[Path, typer.Argument(help="Folder per class, CSV, or release.")],
    out: Out,
    name: Annotated[str, typer.Option("--name", help="Name of the data set.")] = "release",
    version: Annotated[str, typer.Option("--version", help="Of the release.")] = "1",
    label_column: Label = None,
    path_column: PathColumn = None,
    patient_column: PatientColumn = None,
    root: Root = None,
    where: Where = None,
    classes: Classes = None,
    uncertain: Uncertain = "ignore",
    quarantine: Quarantine = False,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Make a release of raw images."""
    from medmark.components.dataset.ingest import ingest as make
    from medmark.components.dataset.inspect import describe, print_description

    options = ingest_options(label_column, path_column, patient_column, root, where, classes, uncertain, quarantine)
    make(source, out, name=name, version=version, seed=seed, **options)
    print_description(describe(out))


@app.command()
def inspect(
    release: Annotated[Path, typer.Argument(help="A release.")],
    preview: Annotated[Path | None, typer.Option("--preview", help="PNG contact sheet to write.")] = None,
    debug: Debug = False,
) -> None:
    """Check a release and show what is in it."""
    from medmark.components.dataset.inspect import describe, print_description
    from medmark.components.dataset.inspect import preview as write_preview

    print_description(describe(release))
    if preview:
        write_preview(release, preview)


@app.command()
def export(
    release: Annotated[Path, typer.Argument(help="A release.")],
    out: Out,
    format: Annotated[str, typer.Option("--format", help="png or dicom.")] = "png",
    split: Annotated[str | None, typer.Option("--split", help="Only train, val or test.")] = None,
    debug: Debug = False,
) -> None:
    """Write a release's images as files."""
    from medmark.components.dataset.export import export as write

    print(f"{write(release, out, format=format, split=split)} files in {out}")
