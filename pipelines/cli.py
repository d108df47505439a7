"""The ``medmark`` command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from medmark.components.errors import MedmarkError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
run_app = typer.Typer(no_args_is_help=True, help="Run a pipeline on this machine.")
app.add_typer(run_app, name="run")
keys_app = typer.Typer(no_args_is_help=True, help="Keys that sign commitments.")
app.add_typer(keys_app, name="keys")

Out = Annotated[Path, typer.Option("--out", help="Folder to write; must be empty or absent.")]
Seed = Annotated[int, typer.Option("--seed", help="Of everything that is drawn at random.")]
PublicKey = Annotated[Path, typer.Option("--public-key", help="The signer's medmark.pub.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and the steps' own output.")]
Label = Annotated[str | None, typer.Option("--label-column", help="Of a CSV: column with the label or finding.")]
PathColumn = Annotated[str | None, typer.Option("--path-column", help="Of a CSV: column with the paths.")]
PatientColumn = Annotated[str | None, typer.Option("--patient-column", help="Of a CSV: column with the patients.")]
Root = Annotated[Path | None, typer.Option("--root", help="Folder that the CSV's paths start from.")]
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


def ingest_options(label, path, patient, root, where, classes, uncertain, quarantine) -> dict:
    return {
        "label_column": label,
        "path_column": path,
        "patient_column": patient,
        "root": str(root.resolve()) if root else None,
        "where": pairs(where, "--where"),
        "class_names": classes.split(",") if classes else None,
        "uncertain": uncertain,
        "quarantine": quarantine,
    }


@run_app.command("mark-release")
def run_mark_release_command(
    out: Out,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder per class, CSV or release; phantoms when absent.")
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
            "--seed", help="Of all that is drawn, the mark's key too; keep it secret. Absent: a new secret one."
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
    """Mark a release, prove that the mark works and that it accuses nobody innocent."""
    from medmark.pipelines.mark_release.run import run_mark_release

    options = ingest_options(label_column, path_column, patient_column, root, where, classes, uncertain, quarantine)
    verdict = run_mark_release(
        out,
        data=str(data) if data else None,
        profile=profile,
        settings=pairs(set_, "--set"),
        ingest_options={"name": name or ("release" if data else "phantoms"), **options},
        version=version,
        seed=seed,
        debug=debug,
    )
    print_verdict(verdict, out)
    if verdict["verdict"] != "owned":
        raise typer.Exit(3)


def print_verdict(verdict: dict, out: Path) -> None:
    """The verdict as a table, and where the report is."""
    from rich.console import Console
    from rich.table import Table

    m, innocent, trigger = verdict["malicious"], verdict["independent_models"], verdict["independent_trigger"]
    accuracy, quality = verdict["accuracy"], verdict["quality"]
    half = [
        r for r in verdict["robustness"] if (r["processing"], r["strength"], r["role"]) == ("resize", 0.5, "victim")
    ]
    rows = [
        ("verdict", verdict["verdict"], "owned"),
        ("watermark success rate", f"{100 * m['wsr']:.1f} %  (clean {100 * m['clean_rate']:.1f} %)", ""),
        ("  at half resolution", ", ".join(f"{100 * r['wsr']:.0f} % (clean {100 * r['clean_rate']:.0f} %)" for r in half), ""),
        ("lift of the target's probability", f"{m['delta_p']:.3f}  [{m['delta_p_ci95'][0]:.3f}, {m['delta_p_ci95'][1]:.3f}]", "> 0.2"),
        ("p: t-test, signed rank, labels only", f"{m['t_p_value']:.1g}, {m['wilcoxon_p_value']:.1g}, {m['label_only_p_value']:.1g}", "< 0.01"),
        ("p: rank among innocent models", f"{m['conformal_p_value']:.3f}", "<= 0.05"),
        ("innocent models accused", f"{innocent['accused']} of {innocent['count']}  (largest lift {innocent['max_delta_p']:+.3f})", "0"),
        ("another generator's mark", f"lift {trigger['delta_p']:+.3f}, accused {trigger['accused']}", "0"),
        ("accuracy with / without the mark", f"{100 * accuracy['marked']:.1f} % / {100 * accuracy['benign']:.1f} %", ""),
        ("changed images: SSIM, HaarPSI, PSNR", f"{quality['ssim']:.3f}, {quality['haarpsi']:.3f}, {quality['psnr']:.1f} dB", ""),
        ("images changed", f"{100 * verdict['marked_fraction']:.1f} %", ""),
        ("time", f"{verdict['seconds']['total']:.0f} s", ""),
    ]  # fmt: skip
    table = Table(title="medmark: mark-release", title_justify="left", show_edge=False)
    table.add_column("what")
    table.add_column("result")
    table.add_column("needed", style="dim")
    for what, result, needed in rows:
        style = ("green" if result == "owned" else "red") if what == "verdict" else None
        table.add_row(what, result, needed, style=style)
    console = Console()
    console.print(table)
    for reason in verdict["reasons"]:
        console.print(f"- {reason}", style="yellow", markup=False, highlight=False)
    console.print(f"report: {Path(out).resolve() / 'report.html'}", soft_wrap=True, highlight=False)


@app.command()
def audit(
    evidence: Annotated[Path, typer.Argument(help="Private evidence of a release.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; answers in it are not asked for again.")],
    suspect: Annotated[
        list[str],
        typer.Option("--suspect", help="http(s)://host/v2/models/NAME, FILE.onnx or models:/NAME/VERSION; repeatable."),
    ],
    size: Annotated[
        int | None, typer.Option("--size", help="Side of the suspect's images, if it does not say.")
    ] = None,
    channels: Annotated[int | None, typer.Option("--channels", help="1 or 3, if it does not say.")] = None,
    scale: Annotated[float, typer.Option("--scale", help="Value of white before normalisation, 1 or 255.")] = 1.0,
    mean: Annotated[float, typer.Option("--mean", help="Taken off after scaling.")] = 0.0,
    std: Annotated[float, typer.Option("--std", help="Divided by afterwards.")] = 1.0,
    answers: Annotated[str, typer.Option("--answers", help="probabilities, logits or labels.")] = "probabilities",
    input: Annotated[
        str | None, typer.Option("--input", help="Name of the input tensor, if there are several.")
    ] = None,
    output: Annotated[str | None, typer.Option("--output", help="Name of the output tensor, likewise.")] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", help="Class names in the order of the suspect's outputs.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Images a request.")] = 8,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds for one request.")] = 30.0,
    retries: Annotated[int, typer.Option("--retries", help="Further tries of a request that failed.")] = 4,
    rate: Annotated[float | None, typer.Option("--rate", help="Requests a second, at most.")] = None,
    ca_bundle: Annotated[str | None, typer.Option("--ca-bundle", help="PEM file of authorities to trust.")] = None,
    registry: Annotated[str | None, typer.Option("--registry", help="URI of the MLflow registry.")] = None,
    commitment: Annotated[
        Path | None, typer.Option("--commitment", help="That the evidence was committed to with; checked first.")
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option("--public-key", help="PEM file of the commitment's signer.")
    ] = None,
    timestamp_roots: Annotated[
        Path | None, typer.Option("--timestamp-roots", help="PEM file of the time stamping authority's roots.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Question suspect models: were they trained on the release?

    A bearer token for endpoints is read from the environment variable MEDMARK_SUSPECT_TOKEN. The exit code is 0 if every
    suspect has a verdict, 3 if one is inconclusive, 1 after an error.
    """
    from medmark.pipelines.audit_suspect.run import run_audit

    contract = {"size": size, "channels": channels, "scale": scale, "mean": mean, "std": std, "answers": answers}
    contract |= {"input": input, "output": output, "classes": classes.split(",") if classes else None}
    connection = {"batch_size": batch_size, "timeout": timeout, "retries": retries, "rate": rate}
    result = run_audit(
        evidence,
        suspect,
        out,
        contract=contract,
        connection={**connection, "ca_bundle": ca_bundle},
        registry=registry,
        commitment=commitment,
        public_key=public_key,
        timestamp_roots=timestamp_roots,
    )
    print_audit(result, out)
    if any(entry["verdict"] == "inconclusive" for entry in result["suspects"]):
        raise typer.Exit(3)


def print_audit(result: dict, out: Path) -> None:
    """A verdict a suspect, and where the report is."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title="medmark: audit", title_justify="left", show_edge=False)
    for column in ("suspect", "verdict", "marked taken for the target (clean)", "lift", "images", "rank p"):
        table.add_column(column, overflow="fold")
    for s in result["suspects"]:
        style = {"owned": "red", "not_owned": "green"}.get(s["verdict"], "yellow")
        numbers = ["-", "-"]
        if s["lift"] is not None:
            numbers = [f"{100 * s['wsr']:.0f} % ({100 * s['clean_rate']:.0f} %)", f"{s['lift']:+.3f}"]
        rank = f"{s['rank_p_value_holm']:.3f}"
        table.add_row(Text(s["name"]), s["verdict"], *numbers, str(s["queries"]), rank, style=style)
    console = Console()
    console.print(table)
    for s in result["suspects"]:
        for reason in s["failed"] + s["missing"]:
            console.print(f"- {s['name']}: {reason}", style="yellow", markup=False, highlight=False)
    console.print(f"report: {Path(out).resolve() / 'audit.html'}", soft_wrap=True, highlight=False)


@keys_app.command("new")
def keys_new(
    out: Annotated[Path, typer.Option("--out", help="Folder for medmark.key and medmark.pub.")],
    debug: Debug = False,
) -> None:
    """Make a signing key.

    Its passphrase is read from the environment variable MEDMARK_KEY_PASSPHRASE, or asked for.
    """
    from medmark.components.lineage.keys import ask_passphrase, new_key

    print(f"key id: {new_key(out, ask_passphrase(twice=True))}")
    print(f"private: {out / 'medmark.key'}\npublic: {out / 'medmark.pub'}")


@app.command("commit")
def commit_command(
    release: Annotated[Path, typer.Argument(help="The marked release, before it goes out.")],
    evidence: Annotated[Path, typer.Argument(help="Its private evidence; gets opening.json.")],
    key: Annotated[Path, typer.Option("--key", help="medmark.key of 'medmark keys new'.")],
    out: Annotated[Path, typer.Option("--out", help="JSON file to write, to be published.")] = Path("commitment.json"),
    timestamp_url: Annotated[
        str | None, typer.Option("--timestamp-url", help="Of an RFC 3161 time stamp authority.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Commit to the evidence of a release, signed and dated.

    The key's passphrase is read from the environment variable MEDMARK_KEY_PASSPHRASE, or asked for.
    """
    from medmark.components.lineage.commitment import commit
    from medmark.components.lineage.keys import ask_passphrase, load_private

    result = commit(release, evidence, load_private(key, ask_passphrase()), out, timestamp_url=timestamp_url)
    print_commitment(result)
    print(f"publish: {out}" + (f" and {out.with_suffix('.tsr')}" if timestamp_url else ""))
    print(f"keep, and back up: {evidence / 'opening.json'}")


@app.command("reveal")
def reveal_command(
    commitment: Annotated[Path, typer.Argument(help="The published commitment.json.")],
    evidence: Annotated[Path, typer.Argument(help="The private evidence, with its opening.json.")],
    out: Annotated[Path, typer.Option("--out", help="JSON file to write, for the judge.")] = Path("reveal.json"),
    debug: Debug = False,
) -> None:
    """Write what a judge needs to check a commitment without the images of the evidence."""
    from medmark.components.lineage.commitment import reveal

    reveal(commitment, evidence, out)
    print(f"for the judge only: {out}")


@app.command("verify-commitment")
def verify_commitment_command(
    commitment: Annotated[Path, typer.Argument(help="The published commitment.json.")],
    public_key: PublicKey,
    release: Annotated[Path | None, typer.Option("--release", help="The release it must be about.")] = None,
    evidence: Annotated[Path | None, typer.Option("--evidence", help="Evidence with its opening.json.")] = None,
    reveal: Annotated[Path | None, typer.Option("--reveal", help="What 'medmark reveal' wrote.")] = None,
    timestamp_roots: Annotated[
        Path | None, typer.Option("--timestamp-roots", help="PEM file of the time stamp authority's root.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Check a commitment; the exit code is 0 if all that was given holds, else 1."""
    from medmark.components.dataset.release import Release
    from medmark.components.lineage.commitment import verify_commitment, verify_reveal
    from medmark.components.lineage.keys import load_public

    key = load_public(public_key)
    digest = Release(release).digest if release else None
    result = verify_commitment(
        commitment, key, release_digest=digest, evidence_dir=evidence, timestamp_roots=timestamp_roots
    )
    if reveal:
        result["evidence_checked"] = verify_reveal(reveal, commitment, key)["evidence_checked"]
    print_commitment(result)


def print_commitment(result: dict) -> None:
    """What a commitment says, and what of it was checked."""
    print(f"release: {result['release_name']}, {result['release_digest']}")
    print(f"signed with the key: {result['key_id']}")
    print(f"evidence: {'what was committed to' if result['evidence_checked'] else 'not compared'}")
    print(f"time: {result['time_says']}")


@app.command("stress")
def stress_command(
    evidence: Annotated[Path, typer.Argument(help="Private evidence of a marked release.")],
    release: Annotated[Path, typer.Option("--release", help="The marked release.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; a run that stopped goes on there.")],
    profile: Annotated[str, typer.Option("--profile", help="How thieves train: smoke, standard or full.")] = "standard",
    clean: Annotated[
        Path | None, typer.Option("--clean", help="Release of clean images that thieves have too.")
    ] = None,
    attack: Annotated[list[str] | None, typer.Option("--attack", help="Only this attack; repeatable.")] = None,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Attack models trained on a marked release: what is left of the mark, and what that costs the thief."""
    from medmark.components.robustness.stress import choose, stress
    from medmark.components.surrogate.training import TrainConfig
    from medmark.pipelines.mark_release.profiles import PROFILES

    if profile not in PROFILES:
        raise MedmarkError(f"unknown profile: {profile!r}; use one of {', '.join(PROFILES)}")
    victims = [TrainConfig(**config) for config in PROFILES[profile].victim_configs(seed)]
    attacks = choose(attack or [])
    table = stress(release, evidence, out, victims=victims, attacks=attacks, other_release_dir=clean, seed=seed)
    numbers = ["wsr", "clean_rate", "delta_p", "accuracy", "accuracy_before"]
    print(table.groupby(["kind", "attack", "strength"], sort=False)[numbers].mean().round(3).to_string())
    print(f"curves: {out.resolve() / 'stress.svg'}")


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


@app.command("compile")
def compile_command(out: Out, debug: Debug = False) -> None:
    """Write the IR YAML of every pipeline."""
    from medmark.pipelines.compiling import compile_all

    for path in compile_all(out):
        print(path)


@app.command("up")
def up_command(
    folder: Annotated[Path, typer.Argument(help="Where data, keys and logs lie; made if missing.")],
    s3_port: Annotated[int, typer.Option("--s3-port", help="Of the object store; 0: last time's, or a free one.")] = 0,
    mlflow_port: Annotated[int, typer.Option("--mlflow-port", help="Of MLflow, likewise.")] = 0,
    retention_days: Annotated[
        int | None, typer.Option("--retention-days", help="How long a release cannot be deleted; 1 in a new folder.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Start an object store and an MLflow server on this machine."""
    from medmark.components.platform.services import up

    services = up(folder, s3_port=s3_port, mlflow_port=mlflow_port, retention_days=retention_days)
    print(f"object store: {services.s3}")
    print(f"MLflow: {services.mlflow}  (export MLFLOW_TRACKING_URI={services.mlflow})")
    for identity in ("release", "evidence"):
        print(f"for {identity}: export MEDMARK_S3_CREDENTIALS={services.credentials[identity]}")


@app.command("down")
def down_command(
    folder: Annotated[Path, typer.Argument(help="The folder of 'medmark up'.")], debug: Debug = False
) -> None:
    """End the services; data and keys stay."""
    from medmark.components.platform.services import down

    print(f"ended: {', '.join(down(folder)) or 'nothing was running'}")


@app.command("status")
def status_command(
    folder: Annotated[Path, typer.Argument(help="The folder of 'medmark up'.")], debug: Debug = False
) -> None:
    """Show whether the services run; exit code 3 if one does not answer."""
    from medmark.components.platform.services import status

    states = status(folder)
    for name, state in states.items():
        print(
            f"{name}: {'answers' if state.answers else 'runs, no answer' if state.running else 'down'}  {state.address}"
        )
    if not all(state.answers for state in states.values()):
        raise typer.Exit(3)


@app.command("publish")
def publish_command(
    release: Annotated[Path, typer.Argument(help="The marked release.")],
    uri: Annotated[str, typer.Argument(help="s3://bucket/prefix; the digest is added.")],
    debug: Debug = False,
) -> None:
    """Store a release in an object store; MEDMARK_S3_CREDENTIALS says which."""
    from medmark.components.platform.publish import publish
    from medmark.components.platform.store import Store

    print_published(publish(release, uri, Store.from_environment()))


@app.command("publish-evidence")
def publish_evidence_command(
    evidence: Annotated[Path, typer.Argument(help="The private evidence of a release.")],
    uri: Annotated[str, typer.Argument(help="s3://bucket/prefix, where no release lies; the digest is added.")],
    debug: Debug = False,
) -> None:
    """Store evidence in a bucket of its own; MEDMARK_S3_CREDENTIALS must open no release's bucket."""
    from medmark.components.platform.publish import publish_evidence
    from medmark.components.platform.store import Store

    print_published(publish_evidence(evidence, uri, Store.from_environment()))


def print_published(done) -> None:
    """Where it lies, and for how long at least."""
    print(done.uri)
    print(f"{done.sent} files sent" if done.sent else "already published, nothing sent", end="; ")
    print(f"locked until {done.locked_until}" if done.locked_until else "not locked")


@app.command("fetch")
def fetch_command(
    uri: Annotated[str, typer.Argument(help="The address that 'medmark publish' printed.")],
    out: Out,
    debug: Debug = False,
) -> None:
    """Get a release or evidence from an object store and check every digest."""
    from medmark.components.platform.publish import fetch_evidence, fetch_release
    from medmark.components.platform.store import Store

    store = Store.from_environment()
    (fetch_evidence if "evidence.json" in store.list(uri) else fetch_release)(uri, out, store)
    print(out)


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
        text = " ".join(str(error).split())
        print(f"medmark: {type(error).__name__}: {text}; run again with --debug to see where", file=sys.stderr)
        sys.exit(1)
