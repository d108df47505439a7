"""Commands that question suspects, and that attack a mark."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from medmark.components.base.errors import MedmarkError
from medmark.pipelines.commands.options import (
    BatchSize,
    Beacon,
    CaBundle,
    CommitmentFile,
    Debug,
    InputTensor,
    Memory,
    OutputTensor,
    Rate,
    Registry,
    Retries,
    Seed,
    SignerKey,
    SuspectAnswers,
    SuspectChannels,
    SuspectClasses,
    SuspectMean,
    Suspects,
    SuspectScale,
    SuspectSize,
    SuspectStd,
    Timeout,
    TimestampRoots,
    contract_of,
)

app = typer.Typer()


@app.command()
def audit(
    evidence: Annotated[str, typer.Argument(help="Private evidence of a release.")],
    out: Annotated[str, typer.Option("--out", help="Folder to write; answers in it are not asked for again.")],
    suspect: Suspects,
    size: SuspectSize = None,
    channels: SuspectChannels = None,
    scale: SuspectScale = 1.0,
    mean: SuspectMean = 0.0,
    std: SuspectStd = 1.0,
    answers: SuspectAnswers = "probabilities",
    input: InputTensor = None,
    output: OutputTensor = None,
    classes: SuspectClasses = None,
    batch_size: BatchSize = 8,
    timeout: Timeout = 30.0,
    retries: Retries = 4,
    rate: Rate = None,
    ca_bundle: CaBundle = None,
    memory: Memory = 4.0,
    registry: Registry = None,
    commitment: CommitmentFile = None,
    public_key: SignerKey = None,
    timestamp_roots: TimestampRoots = None,
    beacon: Beacon = None,
    debug: Debug = False,
) -> None:
    """Question suspect models: were they trained on the release?

    Each suspect runs in a process of its own; one that goes beyond its limits stays open, and the others get their verdict.
    A bearer token for endpoints is read from the environment variable MEDMARK_SUSPECT_TOKEN. The exit code is 0 if every
    suspect has a verdict, 3 if one is inconclusive, 1 after an error.
    """
    from medmark.components.delivery.places import Places
    from medmark.components.suspects.http import Connection
    from medmark.components.suspects.suspects import fetch_suspects
    from medmark.pipelines.audit_suspect.run import run_audit

    contract = contract_of(
        size=size,
        channels=channels,
        mean=mean,
        std=std,
        scale=scale,
        answers=answers,
        input=input,
        output=output,
        classes=classes,
    )
    with Places() as places:
        connection = Connection(
            batch_size=batch_size,
            timeout=timeout,
            retries=retries,
            rate=rate,
            ca_bundle=str(places.read(ca_bundle, raw=True)) if ca_bundle else None,
            memory=memory,
        )
        made = places.write(out, private=True, goes_on=True)
        result = run_audit(
            places.read(evidence, private=True),
            suspect,
            made,
            files=fetch_suspects(places, suspect),
            contract=contract,
            connection=connection,
            registry=registry,
            commitment=places.read(commitment, raw=True, beside=time_stamp(commitment)) if commitment else None,
            public_key=places.read(public_key, raw=True) if public_key else None,
            timestamp_roots=places.read(timestamp_roots, raw=True) if timestamp_roots else None,
            beacon=places.read(beacon, raw=True) if beacon else None,
        )
        print_audit(result, out)
        unsure = any(entry["verdict"] == "inconclusive" for entry in result["suspects"])
    if unsure:
        raise typer.Exit(3)


def time_stamp(commitment: str) -> Callable[[Path], list[str]]:
    """Names the files beside a commitment, for :meth:`medmark.components.delivery.places.Places.read`."""
    return lambda path: [Path(commitment).with_suffix(".tsr").name]


def print_audit(result: dict, out: str) -> None:
    """Prints a verdict for each suspect, and where the report is."""
    from medmark.components.delivery.places import shown
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title="medmark: audit", title_justify="left", show_edge=False)
    for column in ("suspect", "verdict", "key", "exact tests", "taken for the target (clean)", "delta-P"):
        table.add_column(column, overflow="fold", no_wrap=column == "verdict")
    for s in result["suspects"]:
        style = {"owned": "red", "not_owned": "green"}.get(s["verdict"], "yellow")
        numbers = ["-", "-"]
        if s["lift"] is not None:
            numbers = [f"{100 * s['wsr']:.0f} % ({100 * s['clean_rate']:.0f} %)", f"{s['lift']:+.3f}"]
        key = f"{s['key']['rank']} of {s['key']['keys']}" if s["key"] else "-"
        known = "-" if s["together_p_value_holm"] is None else f"p {s['together_p_value_holm']:.2g}"
        table.add_row(Text(s["name"]), s["verdict"], key, known, *numbers, style=style)
    console = Console()
    console.print(table)
    for s in result["suspects"]:
        for reason in s["failed"] + s["missing"]:
            console.print(f"- {s['name']}: {reason}", style="yellow", markup=False, highlight=False)
    console.print(f"report: {shown(out, 'audit.html')}", soft_wrap=True, highlight=False)


@app.command("audit-segmenter")
def audit_segmenter_command(
    evidence: Annotated[str, typer.Argument(help="Private evidence of a marked segmenter.")],
    out: Annotated[str, typer.Option("--out", help="Folder to write; must be empty or absent.")],
    suspect: Suspects,
    size: SuspectSize = None,
    channels: SuspectChannels = None,
    scale: SuspectScale = 1.0,
    mean: SuspectMean = 0.0,
    std: SuspectStd = 1.0,
    answers: SuspectAnswers = "probabilities",
    input: InputTensor = None,
    output: OutputTensor = None,
    classes: SuspectClasses = None,
    batch_size: BatchSize = 8,
    timeout: Timeout = 30.0,
    retries: Retries = 4,
    rate: Rate = None,
    ca_bundle: CaBundle = None,
    memory: Memory = 4.0,
    registry: Registry = None,
    commitment: CommitmentFile = None,
    public_key: SignerKey = None,
    timestamp_roots: TimestampRoots = None,
    beacon: Beacon = None,
    debug: Debug = False,
) -> None:
    """Question suspects that segment: do they show the payload?

    They must answer with probabilities or logits; masks alone hide the mark. Otherwise as 'medmark audit'.
    """
    from medmark.components.base.private_files import output as private_output
    from medmark.components.delivery.places import Places
    from medmark.components.segmentation.audit import audit_segmenters
    from medmark.components.segmentation.audit_report import write_segmenter_audit_report
    from medmark.components.suspects.http import Connection
    from medmark.components.suspects.suspects import fetch_suspects
    from medmark.pipelines.audit_suspect.run import refuse_finished

    contract = contract_of(
        size=size,
        channels=channels,
        mean=mean,
        std=std,
        scale=scale,
        answers=answers,
        input=input,
        output=output,
        classes=classes,
    )
    unfinished = partial(refuse_finished, name="audit-segmenter")
    with Places() as places, private_output(places.write(out, private=True, goes_on=True), unfinished) as made:
        connection = Connection(
            batch_size=batch_size,
            timeout=timeout,
            retries=retries,
            rate=rate,
            ca_bundle=str(places.read(ca_bundle, raw=True)) if ca_bundle else None,
            memory=memory,
        )
        result = audit_segmenters(
            places.read(evidence, private=True),
            suspect,
            made,
            files=fetch_suspects(places, suspect),
            contract=contract,
            connection=connection,
            registry=registry,
            commitment=places.read(commitment, raw=True, beside=time_stamp(commitment)) if commitment else None,
            public_key=places.read(public_key, raw=True) if public_key else None,
            timestamp_roots=places.read(timestamp_roots, raw=True) if timestamp_roots else None,
            beacon=places.read(beacon, raw=True) if beacon else None,
        )
        write_segmenter_audit_report(made / "audit-segmenter.html", result)
        print_segmenter_audit(result, out)
    if any(entry["verdict"] == "inconclusive" for entry in result["suspects"]):
        raise typer.Exit(3)


def print_segmenter_audit(result: dict, out: str) -> None:
    """Prints a verdict for each suspect, and where the report is."""
    from medmark.components.delivery.places import shown
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title="medmark: audit-segmenter", title_justify="left", show_edge=False)
    for column in ("suspect", "verdict", "modules that match", "p (Holm)", "text read"):
        table.add_column(column, overflow="fold", no_wrap=column == "verdict")
    console = Console()
    for s in result["suspects"]:
        style = {"owned": "red", "not_owned": "green"}.get(s["verdict"], "yellow")
        found = s["reading"] or {"matches": "-", "text": None}
        numbers = [f"{found['matches']} of 256", f"{s['p_value_holm']:.2g}", found["text"] or "none"]
        table.add_row(Text(s["name"]), s["verdict"], *map(Text, numbers), style=style)
    console.print(table)
    for s in result["suspects"]:
        for reason in s["reasons"] if s["verdict"] == "inconclusive" else ():
            console.print(f"- {s['name']}: {reason}", style="yellow", markup=False, highlight=False)
    console.print(f"report: {shown(out, 'audit-segmenter.html')}", soft_wrap=True, highlight=False)


@app.command("stress")
def stress_command(
    evidence: Annotated[str, typer.Argument(help="Private evidence of a marked release.")],
    release: Annotated[str, typer.Option("--release", help="The marked release.")],
    out: Annotated[str, typer.Option("--out", help="Folder to write; a run that stopped goes on there.")],
    profile: Annotated[
        str, typer.Option("--profile", help="How adversaries train: smoke, standard or full.")
    ] = "standard",
    clean: Annotated[
        str | None, typer.Option("--clean", help="Release of clean images that adversaries have too.")
    ] = None,
    attack: Annotated[list[str] | None, typer.Option("--attack", help="Only this attack; repeatable.")] = None,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Attack models trained on a marked release: what is left of the mark, and what that costs the adversary."""
    from medmark.components.base.private_files import output
    from medmark.components.delivery.places import Places, shown
    from medmark.components.profiles import PROFILES
    from medmark.components.robustness.attacks import choose
    from medmark.components.robustness.stress import stress
    from medmark.components.robustness.traces import BAND
    from medmark.components.surrogate.training import TrainConfig

    if profile not in PROFILES:
        raise MedmarkError(f"unknown profile: {profile!r}; use one of {', '.join(PROFILES)}")
    marked_models = [TrainConfig(**config) for config in PROFILES[profile].marked_configs(seed)]
    attacks = choose(attack or [])
    with Places() as places, output(places.write(out, private=True, goes_on=True), refuse_other) as made:
        table = stress(
            places.read(release),
            places.read(evidence, private=True),
            made,
            marked_models=marked_models,
            attacks=attacks,
            other_release_dir=places.read(clean) if clean else None,
            seed=seed,
        )
        numbers = ["wsr", "clean_rate", "delta_p", "accuracy", "accuracy_before", "owned"]
        by_attack = table.assign(owned=table.verdict == "owned").groupby(["kind", "attack", "strength"], sort=False)
        print(by_attack[numbers].mean().round(3).to_string())
        seen = json.loads((made / "stress.json").read_bytes())["traces"]["queries"]
        band = seen.pop(BAND)
        most = max(seen, key=lambda name: abs(seen[name] - 0.5))
        print(
            f"marked images told from others by their band: AUC {band:.2f}; by anything else: {seen[most]:.2f} ({most})"
        )
        print(f"curves: {shown(out, 'stress.svg')}")


def refuse_other(out: Path) -> None:
    """Refuses a folder with anything but an earlier attempt."""
    from medmark.components.base.private_files import LOCK

    if set(os.listdir(out)) - {LOCK} and not (out / "rows.jsonl").exists():
        raise MedmarkError(f"not empty: {out}; choose a new folder with --out, or remove what is there")
