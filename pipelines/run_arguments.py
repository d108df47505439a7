"""Arguments that several pipelines take, made from what a user gives on this machine."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.pseudonyms import kept_patient_key
from medmark.components.delivery.places import is_place
from medmark.components.lineage.drawing import complete_places

NOBODY = "medmark-phantom"  # key of the phantoms' pseudonyms: phantoms are nobody, so it is no secret


def patients_argument(file: str | Path | None) -> dict:
    """Returns the pipeline's argument ``patients``, see ``draw_secrets_component``.

    Args:
        file: file with the key of the pseudonyms, made if missing; None: the run draws the key.

    Raises:
        MedmarkError: the file holds no key.
    """
    if file is None:
        return {}
    kept_patient_key(file)
    status = Path(file).stat()
    return {"file": str(Path(file).resolve()), "state": f"{status.st_size}:{status.st_mtime_ns}"}


def drawing_argument(drawing: str | None, drawn_with: str | None) -> dict:
    """Returns the pipeline's argument ``drawing``, see ``draw_secrets_component``.

    Args:
        drawing, drawn_with: file of a drawing and what completes it, or None; see ``draw_secrets_component``.

    Raises:
        MedmarkError: one without the other, or they do not belong together.
    """
    if drawing is None and drawn_with is None:
        return {}
    if drawing is None or drawn_with is None:
        raise MedmarkError("a drawing and what completes it go together; give --drawing and --drawn-with, or neither")
    state = complete_places(drawing, drawn_with).sha256
    file, value = (text if is_place(text) else str(Path(text).resolve()) for text in (drawing, drawn_with))
    return {"file": file, "value": value, "state": state}


def source_state(source: Path, root: str | None) -> str:
    """Returns the SHA-256 of names, sizes and times of a source's files, which differs as soon as a file changes.

    Args:
        source: folder or CSV file.
        root: folder that a CSV's paths start from; the folder of the CSV when None.

    Raises:
        MedmarkError: there is no such source.
    """
    folder = source if source.is_dir() else Path(root or source.parent)
    if not source.exists() or not folder.is_dir():
        raise MedmarkError(f"no such folder or file: {source if folder.is_dir() else folder}; correct --data or --root")
    lines = []
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            path = Path(parent, file)
            status = path.lstat()
            lines.append(f"{path.relative_to(folder)}:{status.st_size}:{status.st_mtime_ns}")
    if not source.is_dir():
        lines.append(f"{source.stat().st_size}:{source.stat().st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()
