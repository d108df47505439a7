"""Networks as registered models of MLflow: ONNX only, with a signature, without an example.

A version carries the digest of the release it belongs to. The alias ``candidate`` names the newest version of a model;
``released`` is set when the release goes out, see :func:`promote`.

Training does not wipe out the weights that a network began with: the first layer of a ``small_cnn`` after 12 epochs on 800
phantoms correlates by 0.99 with its first weights, and PyTorch's generator takes 32 bits of a seed, so with the
weights one can try all seeds (0.14 ms each on one core) and know 32 of its 48 bits. A network whose first weights follow from the mark's
seed is therefore ``private``: registered in the MLflow of the run's own folder only, never on a server.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message
from medmark.components.base.text import reason_of
from medmark.components.tracking.connection import quiet, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion
    from onnx import ModelProto
    from torch import nn

CANDIDATE, RELEASED = "candidate", "released"
CONTENT, TIME, RELEASE = "medmark.content", "medmark.time", "medmark.release_digest"
MODEL = "medmark.model_digest"


@dataclass
class Model:
    """A network to register.

    Attributes:
        name: of the registered model, see :func:`model_name`.
        network: takes (N, C, S, S) float32.
        shape: C, S, S.
        input, output: names of the tensors.
        release_digest: of the release it belongs to.
        model_digest: of the marked model that it is, which goes out by itself; None for any other.
        private: why it must not be sent to a server, or None.
        stated: further facts for its description; JSON values, public.
    """

    name: str
    network: nn.Module
    shape: tuple[int, int, int]
    input: str
    output: str
    release_digest: str
    model_digest: str | None = None
    private: str | None = None
    stated: dict[str, Any] = field(default_factory=dict)


def model_name(*parts: str) -> str:
    """A name that MLflow takes: other characters than letters, digits, ``.``, ``_`` and ``-`` become ``_``."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", "-".join(parts))[:200]


def onnx_graph(network: nn.Module, shape: tuple[int, int, int], input: str, output: str) -> ModelProto:
    """Makes an ONNX model of a network: graph and weights, and nothing of this machine.

    Args:
        network: takes (N, C, S, S) float32; put on the CPU and into evaluation.
        shape: C, S, S.
        input, output: names for the tensors; the number of images is free.
    """
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    given = torch.zeros(2, *shape)  # one image would be taken for a fixed batch size
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of PyTorch about its own exporter
        exported = torch.onnx.export(
            network.cpu().eval(),
            (given,),
            input_names=[input],
            output_names=[output],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    if exported is None:
        raise RuntimeError("PyTorch's exporter gives no program")  # only without dynamo
    made = exported.model_proto
    _forget(made)
    return made


def write_model(model: Model, folder: Path) -> None:
    """Writes a network as an MLflow model of the ONNX flavour: graph, weights and signature, nothing else."""
    import mlflow.onnx
    import numpy as np
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    made = onnx_graph(model.network, model.shape, model.input, model.output)
    with torch.no_grad():
        answer = model.network(torch.zeros(2, *model.shape))
    float32 = np.dtype("float32")
    signature = ModelSignature(
        Schema([TensorSpec(float32, (-1, *model.shape), model.input)]),
        Schema([TensorSpec(float32, (-1, *answer.shape[1:]), model.output)]),
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    mlflow.onnx.save_model(
        made,
        str(folder),
        signature=signature,
        metadata=model.stated | {"release_digest": model.release_digest},
        pip_requirements=["onnx", "onnxruntime"],  # else MLflow loads the model in another process to find them
        save_as_external_data=False,
    )


def register(client: MlflowClient, run_id: str, models: list[dict[str, Any]], content: str, time: int) -> str:
    """Makes registered versions of models among a run's artifacts, once each.

    Args:
        client: of MLflow.
        run_id: of the run.
        models: ``name``, ``folder`` among the artifacts, ``release_digest`` and, of a marked model, ``model_digest`` of each.
        content: what identifies the run; a version that carries it is not made again.
        time: of the run, milliseconds; the newest version becomes the candidate.

    Returns:
        What to say about it: names and versions, or why this MLflow registers no models.
    """
    from mlflow.exceptions import MlflowException

    try:
        return ", ".join(_registered(client, run_id, model, content, time) for model in models)
    except MlflowException as error:
        if error.get_http_status_code() >= 500:  # the server is away: another time
            raise
        return f"not registered: {reason_of(error)}"


def promote(digest: str, folder: str | Path) -> list[str]:
    """Gives the models of a release, or a marked model, the alias ``released``; called when it has gone out.

    It never fails: what MLflow does not do is said in a line on standard error, and a later call makes up for it.

    Args:
        digest: of the marked release or model.
        folder: with the run's ``mlflow.db``, used unless ``MLFLOW_TRACKING_URI`` is set; without either nothing is done.

    Returns:
        Name and version of each such model.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI") and not (Path(folder) / "mlflow.db").is_file():
        return []
    quiet()
    from mlflow import MlflowClient

    promoted = []
    try:
        client = MlflowClient(tracking_uri(Path(folder)))
        for tag in (RELEASE, MODEL):
            for version in client.search_model_versions(f"tag.`{tag}` = '{digest}'"):
                client.set_registered_model_alias(version.name, RELEASED, version.version)
                promoted.append(f"{version.name} {version.version}")
    except Exception as error:  # whatever MLflow or its server raises must not end a publication
        print(f"MLflow did not mark the models as released ({reason_of(error)}); publish again later", file=sys.stderr)
    return sorted(promoted)


def _registered(client: MlflowClient, run_id: str, model: dict[str, Any], content: str, time: int) -> str:
    """One version, made if it is not there; its name and number."""
    from mlflow.exceptions import MlflowException

    name = model["name"]
    logging.getLogger("mlflow.store.model_registry.abstract_store").setLevel(logging.WARNING)  # announces each version
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    versions = _versions(client, name)
    if not any(version.tags.get(CONTENT) == content for version in versions):
        source = f"{client.get_run(run_id).info.artifact_uri}/{model['folder']}"
        tags = {CONTENT: content, TIME: str(time), RELEASE: model["release_digest"]}
        if model.get("model_digest"):  # runs that an older medmark left to be sent have none
            tags[MODEL] = model["model_digest"]
        client.create_model_version(name, source, run_id, tags=tags)
        versions = _versions(client, name)
    own, *extra = [version for version in versions if version.tags.get(CONTENT) == content]
    for version in extra:  # made by a request that was repeated because its answer was lost
        client.delete_model_version(name, version.version)
    newest = max((version for version in versions if version not in extra), key=_age)
    client.set_registered_model_alias(name, CANDIDATE, newest.version)
    return f"{name} {own.version}"


def _versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    return sorted(client.search_model_versions(f"name = '{name}'"), key=lambda version: int(version.version))


def _age(version: ModelVersion) -> tuple[int, int]:
    """When the run of a version was made; other versions of this name come before all."""
    stated = version.tags.get(TIME, "")
    return int(stated) if stated.isdecimal() else 0, int(version.version)


def _forget(message: Message) -> None:
    """Removes what the exporter notes about this machine: names of source files, and texts for people."""
    for descriptor, value in message.ListFields():
        if descriptor.name in ("metadata_props", "doc_string"):
            message.ClearField(descriptor.name)
        elif descriptor.message_type:
            for child in [value] if isinstance(value, Message) else value:
                _forget(child)
