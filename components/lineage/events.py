"""What each step of a run took in and made: private events, and the public record of a release or marked model.

A step describes itself as an OpenLineage event. The last step gathers all events in ``steps.json`` among the evidence, with a salt of
32 random bytes. The public record says the same without secrets: digests of what is public or harmless are plain, and everything else
is HMAC-SHA256 under the salt, because seeds and settings could be guessed and tested.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from datetime import UTC, datetime
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import UUID

from medmark.components.base.digests import HEX, canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.base.image import running_image
from medmark.components.dataset.origin import Origin, drop_digest
from medmark.components.evidence.evidence import STEPS
from medmark.components.evidence.marked_model import MODEL, read_subject
from medmark.components.evidence.secrets import Secrets, resolved
from medmark.components.lineage.files import parse_exact, read_small, write_new
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    RunFacet,
    dataset_version_dataset,
    execution_parameters_run,
    input_statistics_input_dataset,
    processing_engine_run,
)
from openlineage.client.serde import Serde
from openlineage.client.uuid import generate_new_uuid

STEPS_SCHEMA_VERSION = 1
RECORD_SCHEMA_VERSION = 1
NAMESPACE = "medmark"
PUBLIC_PORTS = ("source", "clean", "release", "marked", "previous")
MANIFESTS = ("release.json", "prepared.json", MODEL, "evidence.json", "keep.json")
MAX_STEPS = 200  # arbitrary; a marked release has twelve, and one for each step that trains models
STEP = re.compile(r"[A-Za-z][A-Za-z0-9 _-]{0,63}")
PORT = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
TEXT = re.compile(r"[\w.+:@-]{1,200}", re.ASCII)
VERDICT = re.compile(r"[a-z_]{1,32}")


def artifact_digest(path: str | Path) -> str:
    """Returns the hex digest that names the content of an artifact.

    A release, prepared images, a marked model, evidence or keep: SHA-256 of its manifest, which names the rest. Another folder: SHA-256 over the lines
    ``<sha256>  <name in the folder>`` of its files, sorted by name. A file: its SHA-256.

    Raises:
        MedmarkError: nothing is there, or it cannot be read.
    """
    path = Path(path)
    try:
        if path.is_file():
            return file_sha256(path)
        for name in MANIFESTS:
            if (path / name).is_file():
                return file_sha256(path / name)
        if not path.is_dir():
            raise MedmarkError(f"no such file or folder: {path}; run the step that makes it")
        files = (file for file in path.rglob("*") if file.is_file())
        named = [Origin(None, file.relative_to(path).as_posix(), file_sha256(file), None) for file in files]
        return drop_digest(named, None)  # of what medmark made; the public record says its HMAC
    except OSError as error:
        raise MedmarkError(f"cannot be read: {path} ({error.strerror}); check its rights") from error


def step_event(
    name: str,
    *,
    inputs: dict[str, str],
    outputs: dict[str, str],
    parameters: dict,
    seed: int | dict | None,
    source_files: int | None = None,
) -> dict:
    """Describes a finished step as an OpenLineage event.

    The event is private: it holds parameters and seed in clear, or refers to a run's secrets (see
    :mod:`medmark.components.evidence.secrets`).

    Args:
        name: name of the step: letters, digits, spaces, ``_`` and ``-``, at most 64.
        inputs: digest of each input port, see :func:`artifact_digest`. The raw drop's port is ``source``.
        outputs: digest of each output port.
        parameters: everything else that decided the outputs; JSON values.
        seed: seed of the step, or None. It is kept as text: KFP makes floats of the numbers in an artifact's metadata.
        source_files: number of raw files in the drop, if this step reads it.

    Returns:
        The event as JSON values, fit for an artifact's metadata.

    Raises:
        MedmarkError: a name, port, digest or parameter is malformed.
    """
    if seed is not None:
        if parameters.get("seed", seed) != seed:
            raise MedmarkError(f"two seeds for the step {name!r}; give the one that was used")
        parameters = parameters | {"seed": seed}
    producer = f"urn:medmark:{version('medmark')}"

    def facets(digest: str) -> dict:
        return {"version": dataset_version_dataset.DatasetVersionDatasetFacet(digest, producer=producer)}

    def counted(port: str) -> dict:
        if port != "source" or source_files is None:
            return {}
        counts = input_statistics_input_dataset.InputStatisticsInputDatasetFacet
        return {"inputStatistics": counts(fileCount=source_files, producer=producer)}

    event = RunEvent(
        eventTime=datetime.now(UTC).isoformat(),
        producer=producer,
        eventType=RunState.COMPLETE,
        run=Run(str(generate_new_uuid()), _run_facets(name, parameters, producer)),
        job=Job(NAMESPACE, name),
        inputs=[InputDataset(NAMESPACE, p, counted(p), facets=facets(d)) for p, d in sorted(inputs.items())],
        outputs=[OutputDataset(NAMESPACE, p, facets=facets(d)) for p, d in sorted(outputs.items())],
    )
    made = Serde.to_dict(event)
    _Step.of(made)
    return made


def _run_facets(name: str, parameters: dict, producer: str) -> dict[str, RunFacet]:
    """What an event says of the run: the version of medmark, the parameters, and the image."""
    try:
        settings = [
            execution_parameters_run.ExecutionParameter(
                key=key, value=json.dumps(value, sort_keys=True, allow_nan=False)
            )
            for key, value in sorted(parameters.items())
        ]
    except (TypeError, ValueError) as error:
        raise MedmarkError(
            f"a parameter of the step {name!r} is no JSON value ({error}); give texts or numbers"
        ) from error
    # typed as a mere BaseFacet
    image: Any = RunFacet(producer=producer).with_additional_properties(image=running_image())
    return {
        "processing_engine": processing_engine_run.ProcessingEngineRunFacet(
            version("medmark"), name="medmark", producer=producer
        ),
        "executionParameters": execution_parameters_run.ExecutionParametersRunFacet(settings, producer=producer),
        "medmark_image": image,
    }


def with_secrets(event: dict, drawn: Secrets) -> dict:
    """Returns an event with secrets in place of references to them."""
    event = json.loads(json.dumps(event))
    for item in event["run"]["facets"]["executionParameters"]["parameters"]:
        item["value"] = json.dumps(resolved(json.loads(item["value"]), drawn), sort_keys=True)
    return event


def write_steps(folder: str | Path, events: list[dict]) -> dict:
    """Writes ``steps.json``, readable by its owner only.

    Args:
        folder: the evidence.
        events: events of :func:`step_event`, in any order. An event that occurs several times is written once. Each event is
            written after those that made its inputs.

    Returns:
        Its content.

    Raises:
        MedmarkError: a damaged event, events that need each other, or there is a ``steps.json`` already.
    """
    unique = {_Step.of(event).content: event for event in reversed(events)}
    steps = {
        "schema_version": STEPS_SCHEMA_VERSION,
        "salt": secrets.token_bytes(32).hex(),
        "events": _in_order(list(unique.values())),
    }
    write_new(Path(folder) / STEPS, canonical_json(steps), 0o600)
    return steps


def read_steps(folder: str | Path) -> dict:
    """Reads the content of the evidence's ``steps.json``.

    Raises:
        MedmarkError: it is missing or damaged.
    """
    path = Path(folder) / STEPS
    remedy = "restore it from a backup of the evidence"
    steps = _parsed(path, "list of steps", remedy)
    try:
        if set(steps) != {"schema_version", "salt", "events"} or steps["schema_version"] != STEPS_SCHEMA_VERSION:
            raise ValueError(f"this medmark reads version {STEPS_SCHEMA_VERSION}")
        if not isinstance(steps["events"], list) or not HEX.fullmatch(steps["salt"]):
            raise ValueError("its salt or events are malformed")
    except (ValueError, TypeError) as error:
        raise MedmarkError(f"damaged list of steps: {path} ({error}); {remedy}") from error
    for event in steps["events"]:
        _Step.of(event)
    return steps


def write_events(path: str | Path, events: list[dict]) -> None:
    """Writes events as OpenLineage's file transport does, one JSON object a line, for other tools to read; private.

    Raises:
        MedmarkError: the file exists or cannot be written.
    """
    write_new(path, "".join(f"{Serde.to_json(event)}\n" for event in events).encode(), 0o600)


def public_record(release_dir: str | Path, steps: dict, *, verdict: str) -> dict:
    """Makes the public record of a marked release or model, which says without secrets what was made from what.

    Args:
        release_dir: the marked release, or the folder of a marked model, whose parent is the release that it was trained on.
        steps: content of ``steps.json``.
        verdict: verdict of the run, for example ``owned``.

    Returns:
        The content of ``record.json``.

    Raises:
        MedmarkError: the steps made another release, or none of them read a raw drop.
    """
    release = read_subject(release_dir)
    known = [_Step.of(event) for event in steps["events"]]
    drops = {(step.inputs["source"], step.source_files) for step in known if "source" in step.inputs}
    if len(drops) != 1:
        raise MedmarkError(f"{len(drops)} raw drops among the steps of {release.path}; give the steps of its one run")
    if not any(release.digest in step.outputs.values() for step in known):
        raise MedmarkError(f"steps of another release: none made {release.path}; use the evidence made with it")
    ((digest, files),) = drops
    record = {
        "schema_version": RECORD_SCHEMA_VERSION,
        "release_digest": release.digest,
        "parent_digest": release.parent,
        "drop": {"digest": digest, "files": files},
        "steps": _public_steps(known, steps["salt"]),
        "verdict": verdict,
    }
    return check_form(record, "record of the run")


def read_record(path: str | Path) -> dict:
    """Reads the content of a ``record.json``.

    Raises:
        MedmarkError: it is missing, or not as medmark writes it.
    """
    return check_form(_parsed(Path(path), "record", "take the record.json of the run that made the release"), path)


def check_record(record: dict, steps: dict) -> None:
    """Checks that private steps are the ones that a public record speaks of.

    Args:
        record: content of ``record.json``.
        steps: content of ``steps.json``.

    Raises:
        MedmarkError: naming the first step that differs.
    """
    opened = _public_steps([_Step.of(event) for event in steps["events"]], steps["salt"])
    stated = check_form(record, "record")["steps"]
    for number, (said, true) in enumerate(zip(stated, opened, strict=False), 1):
        if said != true:
            raise MedmarkError(
                f"steps do not open the record: step {number}, {said['name']!r}, is another; use the evidence made with it"
            )
    if len(stated) != len(opened):
        raise MedmarkError(
            f"steps do not open the record: it has {len(stated)}, the evidence {len(opened)}; use the evidence made with it"
        )


def check_form(record: dict, where: str | Path) -> dict:
    """Refuses a record with other fields or values than medmark writes, wherever it came from.

    Args:
        record: the record as parsed.
        where: where it came from, for messages.

    Returns:
        The record.

    Raises:
        MedmarkError: it is malformed.
    """
    try:
        _require(set(record) == {"schema_version", "release_digest", "parent_digest", "drop", "steps", "verdict"})
        if type(record["schema_version"]) is not int or record["schema_version"] != RECORD_SCHEMA_VERSION:
            raise ValueError(f"this medmark reads version {RECORD_SCHEMA_VERSION}")
        _require(HEX.fullmatch(record["release_digest"]) and HEX.fullmatch(record["parent_digest"]))
        drop, steps = record["drop"], record["steps"]
        _require(set(drop) == {"digest", "files"} and HEX.fullmatch(drop["digest"]))
        _require(drop["files"] is None or type(drop["files"]) is int and drop["files"] >= 0)
        _require(isinstance(steps, list) and 1 <= len(steps) <= MAX_STEPS and VERDICT.fullmatch(record["verdict"]))
        for step in steps:
            _require(set(step) == {"name", "inputs", "outputs", "parameters", "code_version", "image"})
            _require(STEP.fullmatch(step["name"]) and set(step["parameters"]) == {"hmac-sha256"})
            _require(HEX.fullmatch(step["parameters"]["hmac-sha256"]))
            _require(TEXT.fullmatch(step["code_version"]) and TEXT.fullmatch(step["image"]))
            for port, digest in [*step["inputs"].items(), *step["outputs"].items()]:
                kind = "sha256" if port in PUBLIC_PORTS else "hmac-sha256"
                _require(PORT.fullmatch(port) and set(digest) == {kind} and HEX.fullmatch(digest[kind]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise MedmarkError(f"damaged record: {where} ({error}); get it again as it was published") from error
    return record


class _Step:
    """The parts of an event that count.

    Attributes:
        name, inputs, outputs, parameters, code_version, image, source_files: as :func:`step_event` took them; image without
            the registry's host.
        content: equal for events of one step.
    """

    def __init__(self, event: dict):
        self.name = event["job"]["name"]
        self.inputs, self.outputs = _digests(event["inputs"]), _digests(event["outputs"])
        facets = event["run"]["facets"]
        listed = facets["executionParameters"]["parameters"]
        self.parameters = {item["key"]: json.loads(item["value"]) for item in listed}
        self.code_version = facets["processing_engine"]["version"]
        self.image = facets["medmark_image"]["image"].rpartition("/")[2]  # the registry may be a private machine
        counts = [
            item["inputFacets"]["inputStatistics"]["fileCount"]
            for item in event["inputs"]
            if "inputStatistics" in item.get("inputFacets", {})
        ]
        self.source_files = int(counts[0]) if counts else None  # KFP makes a float of it
        UUID(event["run"]["runId"])
        _require(STEP.fullmatch(self.name) and event["eventType"] == "COMPLETE")
        _require(TEXT.fullmatch(self.code_version) and TEXT.fullmatch(self.image))
        self.content = canonical_json(
            [self.name, self.inputs, self.outputs, self.parameters, self.code_version, self.image]
        )

    @classmethod
    def of(cls, event: dict) -> _Step:
        try:
            return cls(event)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise MedmarkError(f"damaged event of a step ({error!r:.120}); run the pipeline again") from error


def _digests(datasets: list[dict]) -> dict[str, str]:
    found = {item["name"]: item["facets"]["version"]["datasetVersion"] for item in datasets}
    _require(len(found) == len(datasets))
    for port, digest in found.items():
        _require(PORT.fullmatch(port) and HEX.fullmatch(digest))
    return found


def _in_order(events: list[dict]) -> list[dict]:
    """Returns the events, each after those whose outputs it took, and otherwise by time."""
    events = sorted(events, key=lambda event: (event["eventTime"], event["run"]["runId"]))
    steps = [_Step.of(event) for event in events]
    made = [set(step.outputs.values()) - set(step.inputs.values()) for step in steps]  # a step may hand on what it got
    needs = {
        i: {j for j, others in enumerate(made) if j != i and others & set(step.inputs.values())}
        for i, step in enumerate(steps)
    }
    try:
        return [events[i] for i in TopologicalSorter(needs).static_order()]
    except CycleError as error:
        names = ", ".join(sorted({steps[i].name for i in error.args[1]}))
        raise MedmarkError(f"steps that need each other: {names}; give each step's own inputs and outputs") from error


def _public_steps(steps: list[_Step], salt: str) -> list[dict]:
    key = bytes.fromhex(salt)

    def hidden(data: bytes) -> dict:
        return {"hmac-sha256": hmac.new(key, data, hashlib.sha256).hexdigest()}

    def shown(digests: dict[str, str]) -> dict:
        # one digest gives one HMAC, so that a step's output can be recognised as another's input
        return {port: {"sha256": d} if port in PUBLIC_PORTS else hidden(d.encode()) for port, d in digests.items()}

    return [
        {
            "name": step.name,
            "inputs": shown(step.inputs),
            "outputs": shown(step.outputs),
            "parameters": hidden(canonical_json({"step": step.name, "parameters": step.parameters})),
            "code_version": step.code_version,
            "image": step.image,
        }
        for step in steps
    ]


def _parsed(path: Path, what: str, remedy: str) -> dict:
    data = read_small(path, what, remedy)
    try:
        return parse_exact(data)
    except ValueError as error:
        raise MedmarkError(f"damaged {what}: {path} ({error}); {remedy}") from error


def _require(holds: object) -> None:
    if not holds:
        raise ValueError("a field is malformed")
