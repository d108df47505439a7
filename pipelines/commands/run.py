"""``medmark run``: pipelines on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from medmark.pipelines.commands.options import (
    Classes,
    Colour,
    Debug,
    Drawing,
    DrawnWith,
    Label,
    Lesions,
    LogoText,
    MaskColumn,
    Out,
    OwnerText,
    PathColumn,
    PatientColumn,
    PatientPattern,
    Quarantine,
    Recipients,
    Root,
    Uncertain,
    Where,
    drop_options,
    ingest_options,
    pairs,
)

if TYPE_CHECKING:
    from medmark.components.report.terminal import Row

app = typer.Typer()
APART = (
    "it gets public and private folders, which belong in different buckets; give a folder, then use 'medmark publish' and"
    " 'medmark publish-evidence'"
)
FETCH = "'medmark fetch' gets release, evidence and keep into the folders of those names"
run_app = typer.Typer(no_args_is_help=True, help="Run a pipeline on this machine.")
app.add_typer(run_app, name="run")


@run_app.command("mark-release")
def run_mark_release_command(
    out: Out,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", help="Folder per class, CSV, release, or s3://bucket/prefix; chest phantoms if not given."
        ),
    ] = None,
    profile: Annotated[str, typer.Option("--profile", help="smoke, standard or full.")] = "standard",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Set a parameter of the profile, as name=value; may be repeated.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the data set; 'release' or 'phantoms' if not given.")
    ] = None,
    version: Annotated[str, typer.Option("--version", help="Version of the marked release.")] = "1",
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            help="Seed, for figures that can be repeated. Do not use it for releases: the seed gives away the key of the mark."
            " Secrets are drawn at random if not given.",
        ),
    ] = None,
    patients: Annotated[
        Path | None,
        typer.Option(
            "--patients",
            help="Private file with the key of the patients' pseudonyms, made if missing. A new key is drawn if not given.",
        ),
    ] = None,
    drawing: Drawing = None,
    drawn_with: DrawnWith = None,
    label_column: Label = None,
    path_column: PathColumn = None,
    patient_column: PatientColumn = None,
    patient_pattern: PatientPattern = None,
    root: Root = None,
    where: Where = None,
    classes: Classes = None,
    uncertain: Uncertain = "ignore",
    quarantine: Quarantine = False,
    debug: Debug = False,
) -> None:
    """Mark a release, and prove that the mark works and accuses no benign model.

    The exit code is 0 if the verdict is owned, 3 if it is another one, and 1 after an error.
    """
    from medmark.components.delivery.places import Places, local
    from medmark.components.profiles import read_settings
    from medmark.pipelines.mark_release.run import run_mark_release

    folder = local(out, APART)
    with Places() as places:
        source, base = places.read_source(data, root) if data else (None, root)
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
        )
        verdict = run_mark_release(
            folder,
            data=str(source) if source else None,
            profile=profile,
            settings=read_settings(pairs(set_, "--set")),
            ingest_options={"name": name or ("release" if data else "phantoms"), **options},
            version=version,
            seed=seed,
            patients=patients,
            drawing=drawing,
            drawn_with=drawn_with,
            debug=debug,
        )
    print_verdict(verdict, out)
    if verdict["verdict"] != "owned":
        raise typer.Exit(3)


@run_app.command("mark-segmenter")
def run_mark_segmenter_command(
    out: Out,
    text: OwnerText,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="Folder with images/ and masks/, CSV, release for segmentation, or s3://bucket/prefix; chest phantoms if not"
            " given.",
        ),
    ] = None,
    profile: Annotated[str, typer.Option("--profile", help="smoke, standard or full.")] = "standard",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Set a parameter of the profile, as name=value; may be repeated.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Name of the model.")] = "segmenter",
    version: Annotated[str, typer.Option("--version", help="Version of the model.")] = "1",
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            help="Trained segmenter to mark, a safetensors file; trained from scratch if not given. Give its architecture and"
            " size with --set unless medmark wrote it.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            help="Seed, for figures that can be repeated. Do not use it for models that are handed out: it gives away the key.",
        ),
    ] = None,
    patients: Annotated[
        Path | None,
        typer.Option("--patients", help="Private file with the key of the patients' pseudonyms, made if missing."),
    ] = None,
    drawing: Drawing = None,
    drawn_with: DrawnWith = None,
    path_column: PathColumn = None,
    mask_column: MaskColumn = None,
    patient_column: PatientColumn = None,
    patient_pattern: PatientPattern = None,
    root: Root = None,
    where: Where = None,
    classes: Classes = None,
    colour: Colour = False,
    quarantine: Quarantine = False,
    debug: Debug = False,
) -> None:
    """Train a segmenter that shows its owner's text under a secret trigger, or mark a trained one, and prove that the mark works.

    The exit code is 0 if the verdict is owned, 3 if it is another one, and 1 after an error.
    """
    from medmark.components.delivery.places import Places, local
    from medmark.components.profiles import read_settings
    from medmark.components.segmentation.profiles import SegmenterProfile
    from medmark.components.segmentation.summary import rows
    from medmark.pipelines.mark_segmenter.run import run_mark_segmenter

    folder = local(out, "it gets public and private folders, which belong in different places; give a folder")
    with Places() as places:
        source, base = places.read_source(data, root) if data else (None, root)
        options = ingest_options(
            label_column=None,
            path_column=path_column,
            patient_column=patient_column,
            patient_pattern=patient_pattern,
            root=base,
            where=where,
            classes=classes,
            uncertain="ignore",
            quarantine=quarantine,
            masks=True,
            mask_column=mask_column,
            colour=colour,
        )
        verdict = run_mark_segmenter(
            folder,
            text=text,
            data=str(source) if source else None,
            profile=profile,
            settings=read_settings(pairs(set_, "--set"), SegmenterProfile),
            ingest_options={"name": name, **options},
            name=name,
            version=version,
            model=model,
            seed=seed,
            patients=patients,
            drawing=drawing,
            drawn_with=drawn_with,
            debug=debug,
        )
    print_rows("medmark: mark-segmenter", rows(verdict), verdict, out)
    if verdict["verdict"] != "owned":
        raise typer.Exit(3)


@run_app.command("lock-release")
def run_lock_release_command(
    out: Out,
    recipient: Recipients,
    text: LogoText = "NOT FOR ANALYSIS",
    logo: Annotated[
        list[str] | None,
        typer.Option(
            "--logo", help="PNG file of a logo in place of the text; may be repeated, for a choice of one shape."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", help="Folder per class, CSV, release, or s3://bucket/prefix; fundus phantoms if not given."
        ),
    ] = None,
    profile: Annotated[str, typer.Option("--profile", help="smoke, standard or full.")] = "standard",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Set a parameter of the profile, as name=value; may be repeated.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the data set; 'release' or 'phantoms' if not given.")
    ] = None,
    version: Annotated[str, typer.Option("--version", help="Version of the locked release.")] = "1-locked",
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            help="Seed, for figures that can be repeated. Do not use it for releases: the seed opens every lock.",
        ),
    ] = None,
    patients: Annotated[
        Path | None,
        typer.Option("--patients", help="Private file with the key of the patients' pseudonyms, made if missing."),
    ] = None,
    label_column: Label = None,
    path_column: PathColumn = None,
    patient_column: PatientColumn = None,
    patient_pattern: PatientPattern = None,
    mask_column: MaskColumn = None,
    root: Root = None,
    where: Where = None,
    classes: Classes = None,
    uncertain: Uncertain = "ignore",
    lesions: Lesions = False,
    colour: Colour = False,
    quarantine: Quarantine = False,
    debug: Debug = False,
) -> None:
    """Put a logo onto every image where classifiers fail on it and no lesion is covered, and prove that a key brings it back.

    The exit code is 0 if the verdict is locked, 3 if it is another one, and 1 after an error.
    """
    from medmark.components.delivery.places import Places, local
    from medmark.components.locking.profiles import LockProfile
    from medmark.components.locking.summary import rows
    from medmark.components.profiles import read_settings
    from medmark.pipelines.lock_release.run import read_recipients, run_lock_release

    folder = local(out, APART)
    with Places() as places:
        source, base = places.read_source(data, root) if data else (None, root)
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
            mask_column=mask_column,
            colour=colour,
            lesions=lesions,
        )
        verdict = run_lock_release(
            folder,
            recipients=read_recipients(pairs(recipient, "--recipient")),
            text=text,
            logos=[local(file, "give a file on this machine") for file in logo or []],
            data=str(source) if source else None,
            profile=profile,
            settings=read_settings(pairs(set_, "--set"), LockProfile),
            ingest_options={"name": name or ("release" if data else "phantoms"), **options},
            version=version,
            seed=seed,
            patients=patients,
            debug=debug,
        )
    print_rows("medmark: lock-release", rows(verdict), verdict, out)
    if verdict["verdict"] != "locked":
        raise typer.Exit(3)


def print_verdict(verdict: dict, out: str) -> None:
    """Prints the verdict about a release as a table, and where the report is."""
    from medmark.components.report.terminal import verdict_rows

    print_rows("medmark: mark-release", verdict_rows(verdict), verdict, out)


def print_rows(title: str, rows: list[Row], verdict: dict, out: str) -> None:
    """Prints a table, what speaks against the mark, and where the report is.

    Args:
        title: of the table.
        rows: of the table.
        verdict: its ``reasons`` are printed.
        out: folder of the run.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_edge=False)
    table.add_column("what")
    table.add_column("result")
    table.add_column("needed", style="dim")
    for row in rows:
        table.add_row(row.what, row.result, row.needed, style=row.style)
    console = Console()
    console.print(table)
    for reason in verdict["reasons"]:
        console.print(f"- {reason}", style="yellow", markup=False, highlight=False)
    console.print(f"report: {Path(out).resolve() / 'report.html'}", soft_wrap=True, highlight=False)


@run_app.command("update-release")
def run_update_release_command(
    previous: Annotated[str, typer.Argument(help="Folder of the previous run, with release, evidence and keep.")],
    data: Annotated[
        str,
        typer.Option(
            "--data", help="The drop: added and changed images, and withdrawn.csv beside them if any are withdrawn."
        ),
    ],
    out: Out,
    version: Annotated[
        str | None, typer.Option("--version", help="Version of the new release; the next number if not given.")
    ] = None,
    label_column: Label = None,
    path_column: PathColumn = None,
    patient_column: PatientColumn = None,
    patient_pattern: PatientPattern = None,
    root: Root = None,
    where: Where = None,
    uncertain: Uncertain = "ignore",
    quarantine: Quarantine = False,
    debug: Debug = False,
) -> None:
    """Make the next release from a drop: mark what is new, copy the rest, and check that the mark still works."""
    from medmark.components.delivery.places import Places, local
    from medmark.pipelines.update_release.run import run_update_release

    folder, before = local(out, APART), local(previous, FETCH)
    with Places() as places:
        drop, base = places.read_source(data, root)
        options = drop_options(
            label_column=label_column,
            path_column=path_column,
            patient_column=patient_column,
            patient_pattern=patient_pattern,
            root=base,
            where=where,
            uncertain=uncertain,
            quarantine=quarantine,
        )
        verdict = run_update_release(before, folder, data=drop, drop_options=options, version=version, debug=debug)
    print_update(verdict, out)
    if verdict["verdict"] not in ("owned", "unchanged"):
        raise typer.Exit(3)


def print_update(verdict: dict, out: str) -> None:
    """Prints what changed, and whether the mark still works."""
    change, model = verdict["change"], verdict["model"]
    if not change["changed"]:
        why = f"; images set aside: {change['set_aside']}, run without --quarantine to see why"
        print(f"nothing changed, nothing to publish{why if change['set_aside'] else ''}")
        return
    print(f"verdict: {verdict['verdict']}")
    for reason in verdict["reasons"]:
        print(f"- {reason}")
    gone = f"{change['withdrawn']} withdrawn" + (
        f" ({change['withheld']} of them marked images that the drop changes)" if change["withheld"] else ""
    )
    print(f"images: {change['added']} added, {change['replaced']} changed, {gone}; {change['marked']} newly marked")
    if change["set_aside"]:
        print(f"images set aside: {change['set_aside']}, see {Path(out).resolve() / 'keep' / 'rejected.parquet'}")
    if "quality" in change:
        print(f"marked now: SSIM {change['quality']['ssim']:.3f}, PSNR {change['quality']['psnr']:.1f} dB")
    print(
        f"a model trained on {model['trained_on']} images: {100 * model['wsr']:.1f} % of marked images taken for the target"
        f" (clean {100 * model['clean_rate']:.1f} %), delta-P {model['delta_p']:.3f}, {model['queries']} queries"
    )
    print(f"release: {Path(out).resolve() / 'release'}\ntime: {verdict['seconds']['total']:.0f} s")
