"""Making, checking and writing out releases."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated

import typer
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.origin import REJECTED
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
    from medmark.components.dataset.phantoms import make_phantoms
    from medmark.components.delivery.places import Places

    with Places() as places:
        make_phantoms(places.write(out), count=count, size=size, seed=seed)
    print(out)


@app.command()
def ingest(
    source: Annotated[str, typer.Argument(help="Folder per class, CSV, or release; also s3://bucket/prefix.")],
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
    rejected: Annotated[
        str | None,
        typer.Option(
            "--rejected", help="Private file for names and reasons of what is set aside; else OUT.rejected.parquet."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of splits. Absent: a secret one.")] = None,
    patients: Annotated[
        Path | None,
        typer.Option(
            "--patients", help="Private file with the key of all ids, for later drops; made if missing. Absent: drawn."
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Make a release of raw images."""
    from medmark.components.dataset.ingest import ingest as make
    from medmark.components.dataset.inspect import describe, print_description
    from medmark.components.dataset.origin import kept_patient_key
    from medmark.components.delivery.places import Places
    from medmark.components.evidence.secrets import seeds_of

    names = rejected_file(rejected, out)
    key = kept_patient_key(patients) if patients else None
    seed = secrets.randbits(48) if seed is None else seeds_of(seed)["ingest_seed"]
    with Places() as places:
        made = places.write(out)
        raw, base = places.read_source(source, root)
        options = ingest_options(
            label_column=label_column,
            path_column=path_column,
            patient_column=patient_column,
            root=base,
            where=where,
            classes=classes,
            uncertain=uncertain,
            quarantine=quarantine,
        )
        make(raw, made, name=name, version=version, seed=seed, patient_key=key, rejected=names, **options)
        found = describe(made)
        print_description(found)
        if found["rejected"] and names.is_file():
            print(f"names and reasons of what was set aside, private: {names}")


def rejected_file(rejected: str | None, out: str) -> Path:
    """Where names and reasons of what is set aside go: on this machine, outside the release.

    Raises:
        MedmarkError: it is an address in a store, or lies in the release.
    """
    if rejected is not None and "://" in rejected:
        raise MedmarkError(f"not a file on this machine: --rejected {rejected}; it names patients, keep it here")
    stored = out.startswith("s3://")
    # of a release in a store: in the folder one works in
    beside = Path(out.rstrip("/").rpartition("/")[2]) if stored else Path(out).resolve()
    file = Path(rejected) if rejected is not None else beside.with_name(f"{beside.name}.{REJECTED}")
    if not stored and file.resolve().is_relative_to(beside):
        raise MedmarkError(
            f"names of sources would be public: --rejected {file} lies in {out}; name a file outside of it"
        )
    return file.resolve()


@app.command()
def inspect(
    release: Annotated[str, typer.Argument(help="A release.")],
    preview: Annotated[str | None, typer.Option("--preview", help="PNG contact sheet to write.")] = None,
    debug: Debug = False,
) -> None:
    """Check a release and show what is in it."""
    from medmark.components.dataset.inspect import describe, print_description
    from medmark.components.dataset.inspect import preview as write_preview
    from medmark.components.delivery.places import Places

    with Places() as places:
        sheet = places.write(preview, file=True) if preview else None
        there = places.read(release)
        print_description(describe(there))
        if sheet:
            write_preview(there, sheet)


@app.command()
def export(
    release: Annotated[str, typer.Argument(help="A release.")],
    out: Out,
    format: Annotated[str, typer.Option("--format", help="png or dicom.")] = "png",
    split: Annotated[str | None, typer.Option("--split", help="Only train, val or test.")] = None,
    debug: Debug = False,
) -> None:
    """Write a release's images as files."""
    from medmark.components.dataset.export import export as write
    from medmark.components.delivery.places import Places

    with Places() as places:
        made = places.write(out)
        count = write(places.read(release), made, format=format, split=split)
        print(f"{count} files in {out}")
