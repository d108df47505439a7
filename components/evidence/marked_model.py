"""A marked model: the folder that goes out, and its digest.

``model.json`` names the SHA-256 of the weights, and its own SHA-256 is the model's digest, as ``release.json`` is for a release. The
folder holds nothing secret.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmark.components.base.atomic import write_atomic
from medmark.components.base.digests import HEX, canonical_json, first_changed
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.release import Release

MODEL = "model.json"
WEIGHTS = "weights.safetensors"
ONNX = "model.onnx"
MODEL_SCHEMA_VERSION = 1
MAX_MODEL_JSON = 1 << 20  # bytes; a larger one is not ours


@dataclass(frozen=True)
class MarkedModel:
    """A marked model on disk.

    Attributes:
        path: its folder.
        name, version: as written.
        digest: SHA-256 of ``model.json``, hex.
        stated: content of ``model.json``: ``architecture``, ``channels``, ``size``, ``release_digest`` (of the release it was trained
            on), ``files`` and so on.
    """

    path: Path
    name: str
    version: str
    digest: str
    stated: dict[str, Any]

    changes = None  # a model is made at once; only releases are updated

    @property
    def weights(self) -> Path:
        """File of the weights."""
        return self.path / WEIGHTS

    @property
    def parent(self) -> str:
        """Digest of the release that it was trained on."""
        return str(self.stated["release_digest"])

    def verify(self) -> None:
        """Checks every file that ``model.json`` names.

        Raises:
            MedmarkError: a file is missing or another.
        """
        if (file := first_changed(self.path, self.stated["files"])) is not None:
            raise MedmarkError(f"model changed or missing: {file}; get the model again")


def write_marked_model(folder: str | Path, stated: dict[str, Any]) -> MarkedModel:
    """Writes ``model.json``, last of all files.

    Args:
        folder: holds the files.
        stated: ``name``, ``version``, ``release_digest``, ``files`` (name to SHA-256) and what else is known.
    """
    write_atomic(Path(folder) / MODEL, canonical_json({"schema_version": MODEL_SCHEMA_VERSION, **stated}))
    return read_marked_model(folder)


def read_marked_model(folder: str | Path) -> MarkedModel:
    """Reads ``model.json`` and checks every file that it names.

    Raises:
        MedmarkError: it is missing, damaged, or a file is another.
    """
    path = Path(folder) / MODEL
    try:
        if path.stat().st_size > MAX_MODEL_JSON:
            raise ValueError(f"larger than {MAX_MODEL_JSON} bytes")
        raw = path.read_bytes()
        stated = json.loads(raw)
        version, files = stated["schema_version"], dict(stated["files"])
        if version != MODEL_SCHEMA_VERSION:
            raise ValueError(f"this medmark reads version {MODEL_SCHEMA_VERSION}")
        if WEIGHTS not in files or not HEX.fullmatch(stated["release_digest"]):
            raise ValueError("no weights or no release")
        if any(Path(name).name != name for name in files):
            raise ValueError("a file elsewhere")
        name, label = str(stated["name"]), str(stated["version"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise MedmarkError(f"no marked model: {path} ({error}); give the folder 'model' of a finished run") from error
    model = MarkedModel(Path(folder), name, label, hashlib.sha256(raw).hexdigest(), stated)
    model.verify()
    return model


def read_subject(folder: str | Path) -> Release | MarkedModel:
    """Reads what a folder hands out: a release, or a marked model.

    Raises:
        MedmarkError: it is neither, or damaged.
    """
    return read_marked_model(folder) if (Path(folder) / MODEL).is_file() else Release(folder)
