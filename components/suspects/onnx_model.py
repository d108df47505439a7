"""Suspects as ONNX files, from a folder or from an MLflow registry: what runs in a suspect's own process."""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import yaml
from google.protobuf.message import DecodeError, Message
from medmark.components.base.errors import MedmarkError
from medmark.components.base.text import reason_of
from medmark.components.suspects.messages import Unavailable
from medmark.components.suspects.model_files import model_files
from medmark.components.suspects.onnx_graph import last_convolution
from medmark.components.tracking.connection import QUIET

MAX_MLMODEL = 1 << 20  # of MLflow's description of a model, bytes; arbitrary
BATCH = 32  # arbitrary
BESIDE = (
    "session.model_external_initializers_file_folder_path"  # where onnxruntime looks for weights of a model in memory
)
NO_MEMORY = re.compile("bad_alloc|failed to allocate|bfc_arena", re.IGNORECASE)  # what onnxruntime says then
TYPES = {
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(string)": "str",
}


class OnnxModel:
    """An ONNX file on the CPU.

    The file is hostile: at most 1 GiB with its external data, which must be in the model's folder, and only the operators
    that onnxruntime brings along. What a graph computes is bounded only by the limits of the process.

    Args:
        path: of the file.
        where: what to call it in messages; None: the path.
        threads: to compute with.
        convolution: answer with what the last convolution gives, see :func:`medmark.components.suspects.onnx_graph.last_convolution`,
            instead of with the model's outputs.

    Attributes:
        where, inputs, outputs, batch_size, ask: of a ``Backend`` of :mod:`medmark.components.suspects.suspects`.
        locations: of its external data, seen from its folder.

    Raises:
        MedmarkError: missing, damaged, too large, or refused by onnx or onnxruntime.
        Unavailable: there is too little memory for it.
    """

    batch_size = BATCH

    def __init__(self, path: str | Path, where: str | None = None, *, threads: int = 1, convolution: bool = False):
        self.where = where or str(path)
        try:
            model = load(path, self.where)
            self.locations = sorted(external_locations(model))
            model_files(path, self.locations, self.where)
            onnx.checker.check_model(str(path))
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
            options.log_severity_level = 4  # it would print what the exception says too
            source: str | bytes = str(path)
            if convolution:
                options.add_session_config_entry(BESIDE, str(Path(path).parent.resolve()))
                source = last_convolution(model, self.where).SerializeToString()
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except MedmarkError:
            raise
        except Exception as error:  # onnx's and onnxruntime's exceptions have no common base
            self._refuse_if_too_large(error)
            raise MedmarkError(
                f"no usable ONNX model: {self.where} ({reason_of(error)}); export the model again"
            ) from error
        self.inputs = {tensor.name: _declared(tensor) for tensor in self._session.get_inputs()}
        self.outputs = {tensor.name: _declared(tensor) for tensor in self._session.get_outputs()}

    def ask(self, images: np.ndarray, input: str, output: str | None) -> np.ndarray:
        """Asks about one batch."""
        try:
            return np.asarray(self._session.run([output], {input: images})[0])
        except Exception as error:  # onnxruntime's exceptions have no common base
            self._refuse_if_too_large(error)
            raise MedmarkError(
                f"ONNX model {self.where} fails on images of shape {images.shape} ({reason_of(error)}); export it again, with"
                " a free batch size"
            ) from error

    def _refuse_if_too_large(self, error: Exception) -> None:
        memory = resource.getrlimit(resource.RLIMIT_AS)[0]
        if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
            raise Unavailable(
                f"ONNX model {self.where} needs more than {memory / (1 << 30):g} GiB of memory; give it more with --memory"
                " if you trust it"
            ) from error


def load(path: str | Path, where: str) -> onnx.ModelProto:
    """Loads the file as it is, without its external data.

    Raises:
        MedmarkError: missing, too large, or no ONNX file.
        Unavailable: there is too little memory for it.
    """
    model_files(path, [], where)
    try:
        return onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise MedmarkError(f"not an ONNX file: {where} ({reason_of(error)}); export the model again") from error


def download(uri: str, registry: str | None, folder: str) -> str:
    """Downloads a model from an MLflow registry.

    Args:
        uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        registry: URI of the registry; None: what MLflow is configured for.
        folder: where to.

    Returns:
        Path of its ONNX file.

    Raises:
        MedmarkError: it cannot be had, or it is not of the onnx flavour. Other flavours are pickles or run code of the
            model's author when they are loaded.
    """
    for name, value in (QUIET | {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}).items():
        os.environ.setdefault(name, value)
    import mlflow

    try:
        # of a models:/ address MLflow would ask its own registry, whatever it is given
        client, name = mlflow.MlflowClient(registry, registry), uri.removeprefix("models:/")
        if "@" in name:
            version = client.get_model_version_by_alias(*name.split("@", 1))
        else:
            version = client.get_model_version(*name.split("/", 1))
        path = mlflow.artifacts.download_artifacts(
            artifact_uri=client.get_model_version_download_uri(version.name, version.version),
            dst_path=folder,
            tracking_uri=registry,
            registry_uri=registry,
        )
    except Exception as error:  # whatever MLflow, its server or its stores raise
        raise MedmarkError(
            f"MLflow does not give {uri} ({reason_of(error)}); check its name and version, and MLFLOW_TRACKING_URI"
        ) from error
    return str(_onnx_file(Path(path), uri))


def _onnx_file(folder: Path, uri: str) -> Path:
    """Finds the ONNX file of a downloaded MLflow model."""
    description = folder / "MLmodel"
    try:
        if description.stat().st_size > MAX_MLMODEL:
            raise ValueError("too long")
        flavours = yaml.safe_load(description.read_text(encoding="utf-8"))["flavors"]
        names = ", ".join(str(name)[:40] for name in list(flavours)[:8])
        data = flavours["onnx"]["data"] if "onnx" in flavours else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise MedmarkError(
            f"no MLmodel file that can be read in {uri} ({reason_of(error)}); log the model again"
        ) from error
    if data is None:
        raise MedmarkError(
            f"{uri} has the flavours {names}; only onnx is opened, others can run code: export the model to ONNX and log"
            " it with mlflow.onnx.log_model"
        )
    path = folder / str(data)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise MedmarkError(f"the ONNX file of {uri} is outside the model ({str(data)!r:.80}); log the model again")
    return path


def external_locations(message: Message) -> set[str]:
    """Lists the files that tensors anywhere in a model keep their numbers in."""
    if isinstance(message, onnx.TensorProto) and message.data_location == onnx.TensorProto.EXTERNAL:
        return {entry.value for entry in message.external_data if entry.key == "location"}
    found: set[str] = set()
    for field, value in message.ListFields():
        if field.message_type:
            for child in [value] if isinstance(value, Message) else value:
                found |= external_locations(child)
    return found


def _declared(tensor: onnxruntime.NodeArg) -> tuple[tuple[int | None, ...], str]:
    shape = tuple(side if isinstance(side, int) and side > 0 else None for side in tensor.shape or ())
    return shape, TYPES.get(tensor.type, tensor.type)
