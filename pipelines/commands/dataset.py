"""Commands that make, check and export releases."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated

import typer
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.origin import REJECTED
from medmark.pipelines.commands.options import (
    Classes,
    Colour,
    Debug,
    Label,
    Lesions,
    MaskColumn,
    Masks,
    Out,
    PathColumn,
    PatientColumn,
    PatientPattern,
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
    count: Annotated[int, typer.Option("--count", help="Number of images, equally many of each class.")] = 800,
    size: Annotated[int, typer.Option("--size", help="Side of an image in pixels.")] = 128,
    seed: Seed = 0,
    masks: Annotated[
        bool, typer.Option("--masks", help="Draw images and masks of the lungs, for segmentation.")
    ] = False,
    fundus: Annotated[
        bool, typer.Option("--fundus", help="Draw fundus photographs in colour, and masks of their lesions.")
    ] = False,
    drop: Annotated[
        bool, typer.Option("--drop", help="Add the empty object _SUCCESS last: what is there is a complete drop.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Draw chest phantoms into a folder per class, or with masks of their lungs; or fundus phantoms with masks of their lesions."""
    from medmark.components.dataset.fundus_phantoms import make_fundus_phantoms
    from medmark.components.dataset.phantoms import make_masked_phantoms, make_phantoms
    from medmark.components.delivery.drops import COMPLETE
    from medmark.components.delivery.places import Places, shown

    if masks and fundus:
        raise MedmarkError("--masks and --fundus: fundus phantoms have masks anyway; leave --masks out")
    with Places() as places:
        make = make_masked_phantoms if masks else make_fundus_phantoms if fundus else make_phantoms
        make(places.write(out), count=count, size=size, seed=seed)
        if drop:
            places.write(shown(out, COMPLETE), file=True).touch()
    print(out)


@app.command()
def ingest(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder per class or with images and masks, CSV or release, here or at s3://bucket/prefix."
        ),
    ],
    out: Out,
    name: Annotated[str, typer.Option("--name", help="Name of the data set.")] = "release",
    version: Annotated[str, typer.Option("--version", help="Version of the release.")] = "1",
    label_column: Label = None,
    path_column: PathColumn = None,
    patient_column: PatientColumn = None,
    patient_pattern: PatientPattern = None,
    root: Root = None,
    where: Where = None,
    classes: Classes = None,
    uncertain: Uncertain = "ignore",
    quarantine: Quarantine = False,
    masks: Masks = False,
    mask_column: MaskColumn = None,
    colour: Colour = False,
    lesions: Lesions = False,
    rejected: Annotated[
        str | None,
        typer.Option(
            "--rejected",
            help="Write names and reasons of what is set aside to this private file; OUT.rejected.parquet when absent.",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Seed of the splits; a secret one is drawn when absent.")
    ] = None,
    patients: Annotated[
        Path | None,
        typer.Option(
            "--patients",
            help="Take the key of all ids from this private file, which is made if missing and which later drops need. When"
            " absent, a key is drawn and not kept.",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Turn raw images into a release."""
    from medmark.components.dataset.ingest import ingest as make
    from medmark.components.dataset.inspect import describe, print_description
    from medmark.components.dataset.pseudonyms import kept_patient_key
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
            patient_pattern=patient_pattern,
            root=base,
            where=where,
            classes=classes,
            uncertain=uncertain,
            quarantine=quarantine,
            masks=masks,
            mask_column=mask_column,
            colour=colour,
            lesions=lesions,
        )
        make(raw, made, name=name, version=version, seed=seed, patient_key=key, rejected=names, **options)
        found = describe(made)
        print_description(found)
        if found["rejected"] and names.is_file():
            print(f"private, names and reasons of what was set aside: {names}")


def rejected_file(rejected: str | None, out: str) -> Path:
    """Returns the private file for names and reasons of what is set aside: on this machine, outside the release.

    Args:
        rejected: file that the user names, or None.
        out: folder of the release, here or in a store.

    Raises:
        MedmarkError: the file is in a store, or inside the release.
    """
    if rejected is not None and "://" in rejected:
        raise MedmarkError(f"not a file on this machine: --rejected {rejected}; it names patients, so name a file here")
    stored = out.startswith("s3://")
    # beside a release here, and in the working directory for one in a store
    beside = Path(out.rstrip("/").rpartition("/")[2]) if stored else Path(out).resolve()
    file = Path(rejected) if rejected is not None else beside.with_name(f"{beside.name}.{REJECTED}")
    if not stored and file.resolve().is_relative_to(beside):
        raise MedmarkError(
            f"names of sources would be public: --rejected {file} is inside {out}; name a file outside of it"
        )
    return file.resolve()


@app.command()
def inspect(
    release: Annotated[str, typer.Argument(help="Release, here or at s3://bucket/prefix.")],
    preview: Annotated[str | None, typer.Option("--preview", help="Write a contact sheet to this PNG.")] = None,
    debug: Debug = False,
) -> None:
    """Check every digest of a release and show what is in it."""
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
    release: Annotated[str, typer.Argument(help="Release, here or at s3://bucket/prefix.")],
    out: Out,
    format: Annotated[str, typer.Option("--format", help="Format of the files: png or dicom.")] = "png",
    split: Annotated[str | None, typer.Option("--split", help="Export only this split: train, val or test.")] = None,
    debug: Debug = False,
) -> None:
    """Write the images of a release as PNG or DICOM files."""
    from medmark.components.dataset.export import export as write
    from medmark.components.delivery.places import Places

    with Places() as places:
        made = places.write(out)
        count = write(places.read(release), made, format=format, split=split)
        print(f"{count} files in {out}")
