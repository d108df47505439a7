"""Records every step of a pipeline: its event and how long it took go into the metadata of what it makes.

KFP's backend keeps texts and numbers of an artifact's metadata as they are, wraps lists and dictionaries, and refuses null. So an event
travels as JSON text.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from medmark.components.lineage.events import artifact_digest, step_event


class Artifact(Protocol):
    """The part of a KFP artifact that a step needs."""

    path: str
    metadata: dict


@dataclass
class Step:
    """A running step.

    Attributes:
        inputs: digest by port; a digest that is known only after the work can be added until the step ends.
        parameters: everything else that decided the outputs.
        source_files: number of raw files that were read, if the step reads a drop.
    """

    inputs: dict[str, str]
    parameters: dict = field(default_factory=dict)
    source_files: int | None = None


@contextmanager
def step(
    name: str,
    *,
    inputs: dict[str, Artifact],
    outputs: dict[str, Artifact],
    parameters: dict | None = None,
    seed: int | dict | None = None,
) -> Iterator[Step]:
    """Records the step that the block does.

    When the block ends, ``lineage`` (see :func:`medmark.components.lineage.events.step_event`) and ``seconds`` are put into the
    metadata of every output. Nothing may be added to an output afterwards: its digest is recorded.

    Args:
        name: name of the step.
        inputs: artifacts by port.
        outputs: artifacts by port; complete when the block ends.
        parameters: everything else that decides the outputs, with references in place of secrets.
        seed: seed of the step, if it has one. Give a secret seed as a reference, because logs show metadata.
    """
    started = time.monotonic()
    running = Step({port: artifact_digest(artifact.path) for port, artifact in inputs.items()}, dict(parameters or {}))
    yield running
    event = step_event(
        name,
        inputs=running.inputs,
        outputs={port: artifact_digest(artifact.path) for port, artifact in outputs.items()},
        parameters=running.parameters,
        seed=seed,
        source_files=running.source_files,
    )
    for artifact in outputs.values():
        artifact.metadata.update(lineage=json.dumps(event, sort_keys=True), seconds=time.monotonic() - started)


def said_by(artifacts: dict[str, Artifact]) -> dict[str, dict]:
    """What artifacts say about the steps that made them.

    Args:
        artifacts: by the name under which the step is to be found.

    Returns:
        ``lineage`` (see :func:`medmark.components.lineage.events.step_event`) and ``seconds`` by name. Artifacts of steps that
        are not ours say nothing and are left out.
    """
    return {
        name: {"lineage": json.loads(artifact.metadata["lineage"]), "seconds": artifact.metadata["seconds"]}
        for name, artifact in artifacts.items()
        if "lineage" in artifact.metadata
    }


def pass_on(steps: dict[str, dict], artifact: Artifact) -> None:
    """Puts what is known of earlier steps into the metadata of an output.

    A later step then learns of all of them without taking their outputs as inputs.

    Args:
        steps: of :func:`said_by`.
        artifact: the output.
    """
    artifact.metadata["before"] = json.dumps(steps, sort_keys=True)


def passed_on(artifact: Artifact) -> dict[str, dict]:
    """Returns what :func:`pass_on` put into an artifact's metadata; nothing if the step that made it is not ours."""
    return json.loads(artifact.metadata.get("before", "{}"))
