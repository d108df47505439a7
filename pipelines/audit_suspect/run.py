"""Run an audit on this machine, without a pipeline: it is one step."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medmark.components.base.errors import MedmarkError
from medmark.components.base.private_files import LOCK, output
from medmark.components.base.threads import use_threads
from medmark.components.report.audit_report import write_audit_report
from medmark.components.suspects.contract import Contract
from medmark.components.suspects.http import Connection
from medmark.components.tracking.runs import Tracked, log_pipeline
from medmark.components.verification.audit import STORE, audit


def run_audit(
    evidence: str | Path,
    suspects: list[str],
    out: str | Path,
    *,
    contract: Contract,
    connection: Connection,
    registry: str | None = None,
    commitment: str | Path | None = None,
    public_key: str | Path | None = None,
    timestamp_roots: str | Path | None = None,
    beacon: str | Path | None = None,
    files: dict[str, Path] | None = None,
) -> dict[str, Any]:
    """Audits suspects, writes the report, and tracks the run in MLflow.

    Args:
        evidence: complete evidence; only read.
        suspects: as :func:`medmark.components.verification.audit.audit` takes them.
        out: folder for ``audit.json``, ``audit.html``, the suspects' answers and the MLflow run; readable by its owner only.
            It may hold the answers of an audit that was interrupted or inconclusive.
        contract, connection, registry, commitment, public_key, timestamp_roots, beacon, files: see
            :func:`medmark.components.verification.audit.audit`.

    Returns:
        The content of ``audit.json``.

    Raises:
        MedmarkError: the folder holds something else or a finished audit, or what the audit raises.
    """
    use_threads()
    with output(out, refuse_finished) as folder:
        made = audit(
            evidence,
            suspects,
            folder,
            contract=contract,
            connection=connection,
            registry=registry,
            commitment=commitment,
            public_key=public_key,
            timestamp_roots=timestamp_roots,
            beacon=beacon,
            files=files,
        )
        write_audit_report(folder / "audit.html", made)
        track_audit(folder, made, contract.to_json() | asdict(connection))
    return made


def refuse_finished(out: Path, name: str = "audit") -> None:
    """Refuses a folder with anything but an unfinished audit.

    Args:
        out: the folder.
        name: of the audit's files without their endings.
    """
    own = {LOCK, STORE, f"{STORE}-journal", f"{name}.json", f"{name}.html", "mlflow.db", "mlartifacts", "unlogged"}
    if set(os.listdir(out)) - own:
        raise MedmarkError(f"not empty: {out}; choose a new folder with --out, or remove what is there")
    before = out / f"{name}.json"
    if before.exists():
        try:
            verdicts = [suspect["verdict"] for suspect in json.loads(before.read_bytes())["suspects"]]
        except (ValueError, KeyError, TypeError) as error:
            raise MedmarkError(f"unreadable audit: {before} ({error}); choose a new folder with --out") from error
        if "inconclusive" not in verdicts:
            raise MedmarkError(f"finished audit in {out}; choose a new folder with --out")


def shown_name(suspect: str) -> str:
    """Returns the suspect's name without its folder: the tracking server may be shared."""
    return suspect if ":/" in suspect else Path(suspect).name


def track_audit(out: Path, audit: dict, parameters: dict) -> None:
    """Logs one MLflow run, with a nested run for each suspect."""
    parameters = {name: value for name, value in parameters.items() if name != "ca_bundle"}  # a path of this machine
    steps = []
    for suspect in audit["suspects"]:
        step = Tracked(
            name=shown_name(suspect["name"]),
            parameters={"verdict": suspect["verdict"], "identity": suspect["identity"]},
        )
        numbers = (
            "queries",
            "wsr",
            "clean_rate",
            "lift",
            "control_lift",
            "p_value_holm",
            "rank_p_value_holm",
            "key_p_value_holm",
            "together_p_value_holm",
        )
        step.metrics = {name: suspect[name] for name in numbers}
        step.curves = {
            f"e_value_log10.{name}": list(enumerate(path, 1)) for name, path in suspect["path_log10"].items()
        }
        steps.append(step)
    stated = {"release_digest": audit["release_digest"], "evidence_sha256": audit["evidence_sha256"]}
    run = Tracked(name="audit-suspect", parameters={**parameters, **stated})
    run.files = [out / "audit.json", out / "audit.html"]
    log_pipeline(out, run, steps)
