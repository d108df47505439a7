"""Running and compiling pipelines."""

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
    Uncertain,
    Where,
    ingest_options,
    pairs,
)

app = typer.Typer()
APART = (
    "it gets public and private folders, which belong in different buckets; give a folder, then use 'medmark publish' and"
    " 'medmark publish-evidence'"
)
run_app = typer.Typer(no_args_is_help=True, help="Run a pipeline on this machine.")
app.add_typer(run_app, name="run")


@run_app.command("mark-release")
def run_mark_release_command(
    out: Out,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Folder per class, CSV, release or s3://bucket/prefix; phantoms when absent."),
    ] = None,
    profile: Annotated[str, typer.Option("--profile", help="smoke, standard or full.")] = "standard",
    set_: Annotated[list[str] | None, typer.Option("--set", help="A parameter as name=value; repeatable.")] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the data set; 'release', or 'phantoms' for those.")
    ] = None,
    version: Annotated[str, typer.Option("--version", help="Of the marked release.")] = "1",
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            help="For figures that can be repeated, not for releases: who guesses it has the mark's key. Absent: secrets are"
            " drawn.",
        ),
    ] = None,
    patients: Annotated[
        Path | None,
        typer.Option(
            "--patients",
            help="Private file with the key of the pseudonyms, made if missing. Absent: a new key is drawn.",
        ),
    ] = None,
    label_column: Label = None,
    path_column: PathColumn = None,
    patient_column: PatientColumn = None,
    root: Root = None,
    where: Where = None,
    classes: Classes = None,
    uncertain: Uncertain = "ignore",
    quarantine: Quarantine = False,
    debug: Debug = False,
) -> None:
    """Mark a release, prove that the mark works and that it accuses nobody wrongly."""
    from medmark.components.delivery.places import Places, local
    from medmark.pipelines.mark_release.run import run_mark_release

    folder = local(out, APART)
    with Places() as places:
        source, base = places.read_source(data, root) if data else (None, root)
        options = ingest_options(label_column, path_column, patient_column, base, where, classes, uncertain, quarantine)
        verdict = run_mark_release(
            folder,
            data=str(source) if source else None,
            profile=profile,
            settings=pairs(set_, "--set"),
            ingest_options={"name": name or ("release" if data else "phantoms"), **options},
            version=version,
            seed=seed,
            patients=patients,
            debug=debug,
        )
    print_verdict(verdict, out)
    if verdict["verdict"] != "owned":
        raise typer.Exit(3)


def print_verdict(verdict: dict, out: str) -> None:
    """The verdict as a table, and where the report is."""
    from medmark.components.report.terminal import verdict_rows
    from rich.console import Console
    from rich.table import Table

    table = Table(title="medmark: mark-release", title_justify="left", show_edge=False)
    table.add_column("what")
    table.add_column("result")
    table.add_column("needed", style="dim")
    for row in verdict_rows(verdict):
        table.add_row(row.what, row.result, row.needed, style=row.style)
    console = Console()
    console.print(table)
    for reason in verdict["reasons"]:
        console.print(f"- {reason}", style="yellow", markup=False, highlight=False)
    console.print(f"report: {Path(out).resolve() / 'report.html'}", soft_wrap=True, highlight=False)


@run_app.command("update-release")
def run_update_release_command(
    previous: Annotated[str, typer.Argument(help="Folder of the run before: release, evidence and keep.")],
    data: Annotated[
        str, typer.Option("--data", help="The drop: added and changed images, maybe withdrawn.csv beside them.")
    ],
    out: Out,
    version: Annotated[str | None, typer.Option("--version", help="Of the new release; else the next number.")] = None,
    label_column: Label = None,
    path_column: PathColumn = None,
    patient_column: PatientColumn = None,
    root: Root = None,
    where: Where = None,
    uncertain: Uncertain = "ignore",
    quarantine: Quarantine = False,
    debug: Debug = False,
) -> None:
    """Make the next release of a new drop: mark what is new, copy the rest, check that the mark still works."""
    from medmark.components.delivery.places import Places, local
    from medmark.pipelines.update_release.run import run_update_release

    folder = local(out, APART)
    before = local(previous, "'medmark fetch' gets release, evidence and keep into the folders of those names")
    with Places() as places:
        drop, base = places.read_source(data, root)
        options = ingest_options(label_column, path_column, patient_column, base, where, None, uncertain, quarantine)
        options.pop("class_names")  # the previous release's
        verdict = run_update_release(before, folder, data=drop, drop_options=options, version=version, debug=debug)
    print_update(verdict, out)
    if verdict["verdict"] not in ("owned", "unchanged"):
        raise typer.Exit(3)


def print_update(verdict: dict, out: str) -> None:
    """What changed, and whether the mark still works."""
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
        f" (clean {100 * model['clean_rate']:.1f} %), lift {model['delta_p']:.3f}, {model['queries']} queries"
    )
    print(f"release: {Path(out).resolve() / 'release'}\ntime: {verdict['seconds']['total']:.0f} s")


@app.command("reissue")
def reissue_command(
    previous: Annotated[str, typer.Argument(help="Folder of a finished run: release, evidence and keep.")],
    out: Out,
    debug: Debug = False,
) -> None:
    """Give a release whose image ids hold file names new ids; images and marks stay."""
    from medmark.components.delivery.places import local
    from medmark.components.poisoning.reissue import reissue

    before = local(previous, "'medmark fetch' gets release, evidence and keep into the folders of those names")
    made = reissue(before, local(out, APART))
    print(f"release: {made.path}\ndigest: {made.digest}\ncommit to the new evidence anew; audits use it from now on")


@app.command("compile")
def compile_command(out: Out, debug: Debug = False) -> None:
    """Write the IR YAML of every pipeline."""
    from medmark.components.delivery.places import Places, shown
    from medmark.pipelines.compiling import compile_all

    with Places() as places:
        for path in compile_all(places.write(out)):
            print(shown(out, path.name))
