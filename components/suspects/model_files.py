"""The files that an ONNX model consists of, without looking into them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from medmark.components.base.errors import MedmarkError

MAX_BYTES = 1 << 30  # of a model with its external data; arbitrary


def model_file(model: str | Path, *suffixes: str) -> Path:
    """Finds the file of a model that another step made, or that was imported.

    Args:
        model: a file, whatever its name, or a folder with one file of its kind, and maybe its weights.
        suffixes: of the kind, such as ``.onnx``.

    Raises:
        MedmarkError: the folder has no such file or several.
    """
    found = Path(model)
    if not found.is_dir():
        return found
    inside = sorted(file for file in found.iterdir() if file.suffix in suffixes)
    if len(inside) != 1:
        kinds = " or ".join({".onnx": "ONNX", ".safetensors": "safetensors"}.get(suffix, suffix) for suffix in suffixes)
        raise MedmarkError(f"{len(inside)} {kinds} files in the model {found}; save one, with its weights beside it")
    return inside[0]


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: eight bytes, then a JSON object, as no ONNX file does."""
    try:
        with open(path, "rb") as stream:
            return stream.read(9)[8:] == b"{"
    except OSError as error:
        raise MedmarkError(f"cannot be opened: {path} ({error.strerror}); give the path of a model") from error


def model_files(path: str | Path, locations: list[str], where: str) -> list[Path]:
    """Checks and lists the model's file and those with its external data.

    Args:
        path: of the ONNX file.
        locations: of its external data, seen from its folder.
        where: what to call the model in messages.

    Raises:
        MedmarkError: one is missing or outside the model's folder, or together they are too large.
    """
    path = Path(path)
    if not path.is_file():
        raise MedmarkError(f"no ONNX file: {where}; give the path of one")
    folder, files = path.parent.resolve(), [path]
    for location in locations:
        file = folder / location
        try:
            inside = file.resolve().is_relative_to(folder) and file.is_file()
        except (OSError, ValueError, RuntimeError):  # no name that a file could have, or links in a circle
            inside = False
        if not inside:
            raise MedmarkError(
                f"ONNX model {where} keeps weights in {location!r:.80}, which is no file in its own folder; put the model"
                " and its external data together in one folder"
            )
        files.append(file)
    size = sum(file.stat().st_size for file in files)
    if size > MAX_BYTES:
        raise MedmarkError(f"ONNX model {where} has {size} bytes, more than {MAX_BYTES}; export a smaller model")
    return files


def digest_of(files: list[Path]) -> str:
    """Returns the SHA-256 over the SHA-256 of each file."""
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
