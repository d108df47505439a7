"""Options that several commands take. What may be stored in an object store is a text: a Path would make ``s3:/`` of ``s3://``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from medmark.components.base.errors import MedmarkError

if TYPE_CHECKING:
    from medmark.components.suspects.contract import Contract

Out = Annotated[str, typer.Option("--out", help="Folder or s3://bucket/prefix to write; must be empty or absent.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything that is drawn at random.")]
PublicKey = Annotated[str, typer.Option("--public-key", help="The signer's medmark.pub.")]
Images = Annotated[
    str | None,
    typer.Option(
        "--images",
        envvar="MEDMARK_IMAGES",
        help="YAML file with the image to run the steps in, 'medmark/python-cpu: registry/name@sha256:...'.",
    ),
]
PodsFile = Annotated[
    str | None,
    typer.Option(
        "--pods",
        envvar="MEDMARK_PODS",
        help="YAML file with what the steps' pods ask of the cluster: processors, memory, GPU, queue, retries.",
    ),
]
Unpinned = Annotated[
    bool, typer.Option("--unpinned", help="Take an image without a digest, which can change between runs.")
]
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
Colour = Annotated[bool, typer.Option("--colour", help="Keep colours.")]
Lesions = Annotated[
    bool,
    typer.Option(
        "--lesions",
        help="Labelled images have masks of their lesions, all or some: a folder per class below images/ and masks/, or a CSV with a"
        " column for them.",
    ),
]
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
OwnerText = Annotated[
    str, typer.Option("--text", help="Who owns the model, in 1 to 16 printable bytes; read back from the model.")
]
LogoText = Annotated[str, typer.Option("--text", help="Text of the logo, 1 to 24 printable characters.")]
Recipients = Annotated[
    list[str],
    typer.Option(
        "--recipient",
        help="Who may unlock, as NAME=locking.pub, the owner first; may be repeated. 'medmark keys new --locking' makes keys.",
    ),
]

Suspects = Annotated[
    list[str],
    typer.Option("--suspect", help="http(s)://host/v2/models/NAME, FILE.onnx or models:/NAME/VERSION; repeatable."),
]
SuspectSize = Annotated[int | None, typer.Option("--size", help="Side of the suspect's images, if it does not say.")]
SuspectChannels = Annotated[int | None, typer.Option("--channels", help="1 or 3, if it does not say.")]
SuspectScale = Annotated[float, typer.Option("--scale", help="Value of white before normalisation, 1 or 255.")]
SuspectMean = Annotated[float, typer.Option("--mean", help="Subtracted after scaling.")]
SuspectStd = Annotated[float, typer.Option("--std", help="Divides what remains.")]
SuspectAnswers = Annotated[str, typer.Option("--answers", help="probabilities, logits or labels.")]
InputTensor = Annotated[str | None, typer.Option("--input", help="Name of the input tensor, if there are several.")]
OutputTensor = Annotated[str | None, typer.Option("--output", help="Name of the output tensor, if there are several.")]
SuspectClasses = Annotated[
    str | None, typer.Option("--classes", help="Class names in the order of the suspect's outputs.")
]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Images in a request.")]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds for one request, or for one batch of an ONNX file.")]
Retries = Annotated[int, typer.Option("--retries", help="Further tries of a request that failed.")]
Rate = Annotated[float | None, typer.Option("--rate", help="Requests a second, at most.")]
CaBundle = Annotated[str | None, typer.Option("--ca-bundle", help="PEM file of authorities to trust.")]
Memory = Annotated[float, typer.Option("--memory", help="GiB that a suspect's process may use.")]
Registry = Annotated[str | None, typer.Option("--registry", help="URI of the MLflow registry.")]
CommitmentFile = Annotated[
    str | None, typer.Option("--commitment", help="Commitment to the evidence, checked before anything is asked.")
]
SignerKey = Annotated[str | None, typer.Option("--public-key", help="PEM file of the commitment's signer.")]
TimestampRoots = Annotated[
    str | None, typer.Option("--timestamp-roots", help="PEM file of the time stamping authority's roots.")
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


def contract_of(
    *,
    size: int | None,
    channels: int | None,
    mean: float,
    std: float,
    scale: float,
    answers: str,
    input: str | None,
    output: str | None,
    classes: str | None,
) -> Contract:
    """Returns the contract of suspects, from the options of a command."""
    from medmark.components.suspects.contract import Contract

    return Contract(
        size=size,
        channels=channels,
        mean=mean,
        std=std,
        scale=scale,
        answers=answers,
        input=input,
        output=output,
        classes=tuple(classes.split(",")) if classes else None,
    )


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
    lesions: bool = False,
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
    if mask_column and not (masks or lesions):
        raise MedmarkError("--mask-column without --masks; add --masks, or --lesions if they are of lesions")
    if masks and lesions:
        raise MedmarkError("--masks and --lesions: masks are for segmentation or of lesions; give one of the two")
    if not (masks or lesions or colour):
        return read
    kind = {"task": "segmentation"} if masks else {"lesions": lesions}
    return {**read, **kind, "mask_column": mask_column, "image_mode": "RGB" if colour else "L"}
