"""What every step of a pipeline leaves with what it makes: its event and how long it took, in the artifacts' metadata."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from medmark.components.lineage.events import artifact_digest, step_event


class Artifact(Protocol):
    """What a step needs of KFP's artifacts."""

    path: str
    metadata: dict


@dataclass
class Step:
    """A step that runs.

    Attributes:
        inputs: digest by port; what is known only after the work can be added until the step ends.
        parameters: whatever else decided the outputs.
        source_files: raw files that were read, if the step reads a drop.
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
    """Around the work of a step: puts ``lineage`` (see :func:`medmark.components.lineage.events.step_event`) and ``seconds``
    into the metadata of every output.

    Args:
        name: of the step.
        inputs: artifacts by port.
        outputs: artifacts by port; complete when the block ends.
        parameters: see :class:`Step`; with references in place of secrets.
        seed: of the step, if it has one; a secret one as a reference, since metadata is written into logs.
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
        artifact.metadata.update(lineage=event, seconds=time.monotonic() - started)


def said_by(artifacts: dict[str, Artifact]) -> dict[str, dict]:
    """What artifacts say about the steps that made them.

    A step puts it into the metadata of its own output, so that a later step learns of all earlier ones without taking their
    outputs as inputs.

    Args:
        artifacts: by the name under which the step is to be found.

    Returns:
        ``lineage`` and ``seconds`` by name. Artifacts of steps that are not ours say nothing and are left out.
    """
    return {
        name: {"lineage": artifact.metadata["lineage"], "seconds": artifact.metadata["seconds"]}
        for name, artifact in artifacts.items()
        if "lineage" in artifact.metadata
    }
