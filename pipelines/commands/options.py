"""Options that several commands take. What may be stored in an object store is a text: a Path would make ``s3:/`` of ``s3://``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from medmark.components.base.errors import MedmarkError

Out = Annotated[str, typer.Option("--out", help="Folder or s3://bucket/prefix to write; must be empty or absent.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything that is drawn at random.")]
PublicKey = Annotated[str, typer.Option("--public-key", help="The signer's medmark.pub.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and everything that the steps print.")]
Label = Annotated[str | None, typer.Option("--label-column", help="CSV column with the label or finding.")]
PathColumn = Annotated[str | None, typer.Option("--path-column", help="CSV column with the paths of the images.")]
PatientColumn = Annotated[str | None, typer.Option("--patient-column", help="CSV column with the patients.")]
PatientPattern = Annotated[
    str | None,
    typer.Option(
        "--patient-pattern",
        help="Regular expression to find in each image's path; its first group is the patient. When absent, a folder's patient"
        " is what stands before the first _ of a file's name.",
    ),
]
Root = Annotated[str | None, typer.Option("--root", help="Folder that the CSV's paths start from.")]
Where = Annotated[
    list[str] | None, typer.Option("--where", help="Take only CSV rows with column=value; may be repeated.")
]
Classes = Annotated[
    str | None, typer.Option("--classes", help="Class names in the order of the labels, separated by commas.")
]
Uncertain = Annotated[
    str, typer.Option("--uncertain", help="What to make of CheXpert's uncertain label -1: ones, zeros or ignore.")
]
Quarantine = Annotated[bool, typer.Option("--quarantine", help="Set unusable images aside instead of stopping.")]
Masks = Annotated[
    bool,
    typer.Option(
        "--masks",
        help="Every image has a mask: a folder with images/ and masks/, or a CSV with a column for them.",
    ),
]
MaskColumn = Annotated[
    str | None, typer.Option("--mask-column", help="CSV column with the paths of the masks; mask if not given.")
]
Colour = Annotated[bool, typer.Option("--colour", help="Keep colours; only with masks.")]
Drawing = Annotated[
    str | None,
    typer.Option(
        "--drawing",
        help="Private file of 'medmark keys draw', from which the key of the mark follows; others can check that then. The key is"
        " self-drawn if not given.",
    ),
]
Beacon = Annotated[
    str | None,
    typer.Option(
        "--beacon",
        help="What the beacon gave that the key was drawn with, from the beacon itself; it must be what the evidence says.",
    ),
]
DrawnWith = Annotated[
    str | None,
    typer.Option("--drawn-with", help="What completes the drawing: its time stamp (.tsr), or what its beacon gave."),
]


def pairs(texts: list[str] | None, flag: str) -> dict[str, str]:
    """Reads ``name=value`` texts.

    Args:
        texts: values of a repeatable option.
        flag: name of the option, for messages.

    Raises:
        MedmarkError: a text without ``=``.
    """
    for text in texts or []:
        if "=" not in text:
            raise MedmarkError(f"{flag} {text} is not name=value; write for example {flag} size=64")
    return dict(text.split("=", 1) for text in texts or [])


def drop_options(
    *,
    label_column: str | None,
    path_column: str | None,
    patient_column: str | None,
    patient_pattern: str | None,
    root: str | Path | None,
    where: list[str] | None,
    uncertain: str,
    quarantine: bool,
) -> dict:
    """Returns keyword arguments of :func:`medmark.components.dataset.drop.read_drop`, from the options of a command."""
    return {
        "label_column": label_column,
        "path_column": path_column,
        "patient_column": patient_column,
        "patient_pattern": patient_pattern,
        "root": str(Path(root).resolve()) if root else None,
        "where": pairs(where, "--where"),
        "uncertain": uncertain,
        "quarantine": quarantine,
    }


def ingest_options(
    *,
    label_column: str | None,
    path_column: str | None,
    patient_column: str | None,
    patient_pattern: str | None,
    root: str | Path | None,
    where: list[str] | None,
    classes: str | None,
    uncertain: str,
    quarantine: bool,
    masks: bool = False,
    mask_column: str | None = None,
    colour: bool = False,
) -> dict:
    """Returns keyword arguments of :func:`medmark.components.dataset.ingest.ingest`, from the options of a command."""
    read = drop_options(
        label_column=label_column,
        path_column=path_column,
        patient_column=patient_column,
        patient_pattern=patient_pattern,
        root=root,
        where=where,
        uncertain=uncertain,
        quarantine=quarantine,
    )
    read["class_names"] = classes.split(",") if classes else None
    if not masks:
        if mask_column or colour:
            raise MedmarkError(f"--{'mask-column' if mask_column else 'colour'} without --masks; add --masks")
        return read
    mode = "RGB" if colour else "L"
    return {**read, "task": "segmentation", "mask_column": mask_column, "image_mode": mode}
