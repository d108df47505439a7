"""Records every step of a pipeline: its event and how long it took go into the metadata of what it makes.

KFP's backend keeps texts and numbers of an artifact's metadata as they are, wraps lists and dictionaries, and refuses null. So an event
travels as text. It is packed, because a step gets the metadata of all its inputs in one argument of its command, and Linux takes none of
128 KiB: a step that gathers the models of a loop has an event of each among its inputs.
"""

from __future__ import annotations

import base64
import json
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from medmark.components.base.errors import MedmarkError
from medmark.components.lineage.events import artifact_digest, step_event


class Artifact(Protocol):
    """The part of a KFP artifact that a step needs."""

    path: str
    metadata: dict


LARGEST = 1 << 24  # bytes, unpacked; arbitrary, far more than the events of MAX_STEPS steps


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
        artifact.metadata.update(lineage=_packed(event), seconds=time.monotonic() - started)


def said_by(artifacts: dict[str, Artifact]) -> dict[str, dict]:
    """What artifacts say about the steps that made them.

    Args:
        artifacts: by the name under which the step is to be found.

    Returns:
        ``lineage`` (see :func:`medmark.components.lineage.events.step_event`) and ``seconds`` by name. Artifacts of steps that
        are not ours say nothing and are left out.
    """
    return {
        name: {"lineage": _unpacked(artifact.metadata["lineage"]), "seconds": artifact.metadata["seconds"]}
        for name, artifact in artifacts.items()
        if "lineage" in artifact.metadata
    }


def pass_on(steps: dict[str, dict], artifact: Artifact) -> None:
    """Puts what is known of earlier steps into the metadata of an output.

    A later step then learns of all of them without taking their outputs as inputs.

    Args:
        steps: of :func:`said_by`; without ``seconds`` if another one's seconds include them.
        artifact: the output.
    """
    artifact.metadata["before"] = _packed(steps)


def passed_on(artifact: Artifact) -> dict[str, dict]:
    """Returns what :func:`pass_on` put into an artifact's metadata; nothing if the step that made it is not ours.

    Raises:
        MedmarkError: it is something else.
    """
    return _unpacked(artifact.metadata["before"]) if "before" in artifact.metadata else {}


def _packed(value: dict) -> str:
    return base64.b64encode(zlib.compress(json.dumps(value, sort_keys=True).encode(), 9)).decode()


def _unpacked(packed: str) -> dict:
    try:
        unpacking = zlib.decompressobj()
        text = unpacking.decompress(base64.b64decode(packed, validate=True), LARGEST)
        if not unpacking.eof:
            raise ValueError(f"cut off, or larger than {LARGEST} bytes")
        value = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError("no JSON object")
    except (ValueError, TypeError, RecursionError, zlib.error) as error:
        raise MedmarkError(f"damaged account of earlier steps ({error!r:.120}); run the pipeline again") from error
    return value
