"""Options that several commands take. What may lie in an object store is a text: a Path would make ``s3:/`` of ``s3://``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from medmark.components.base.errors import MedmarkError

Out = Annotated[str, typer.Option("--out", help="Folder or s3://bucket/prefix to write; must be empty or absent.")]
Seed = Annotated[int, typer.Option("--seed", help="Of everything that is drawn at random.")]
PublicKey = Annotated[str, typer.Option("--public-key", help="The signer's medmark.pub.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and the steps' own output.")]
Label = Annotated[str | None, typer.Option("--label-column", help="Of a CSV: column with the label or finding.")]
PathColumn = Annotated[str | None, typer.Option("--path-column", help="Of a CSV: column with the paths.")]
PatientColumn = Annotated[str | None, typer.Option("--patient-column", help="Of a CSV: column with the patients.")]
Root = Annotated[str | None, typer.Option("--root", help="Folder that the CSV's paths start from.")]
Where = Annotated[list[str] | None, typer.Option("--where", help="Only CSV rows with column=value; repeatable.")]
Classes = Annotated[str | None, typer.Option("--classes", help="Class names in label order, separated by commas.")]
Uncertain = Annotated[str, typer.Option("--uncertain", help="CheXpert's -1: ones, zeros or ignore.")]
Quarantine = Annotated[bool, typer.Option("--quarantine", help="Set unusable images aside instead of refusing.")]


def pairs(texts: list[str] | None, flag: str) -> dict[str, str]:
    """``name=value`` texts as a dictionary."""
    for text in texts or []:
        if "=" not in text:
            raise MedmarkError(f"{flag} {text} is not name=value; write for example {flag} size=64")
    return dict(text.split("=", 1) for text in texts or [])


def ingest_options(label, path, patient, root: str | Path | None, where, classes, uncertain, quarantine) -> dict:
    return {
        "label_column": label,
        "path_column": path,
        "patient_column": patient,
        "root": str(Path(root).resolve()) if root else None,
        "where": pairs(where, "--where"),
        "class_names": classes.split(",") if classes else None,
        "uncertain": uncertain,
        "quarantine": quarantine,
    }
