"""Reading a folder per class: the folder's name is the label."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medmark.components.base.errors import MedmarkError
from medmark.components.base.text import printable
from medmark.components.dataset.decoded import IMAGE_SUFFIXES
from medmark.components.dataset.items import Item, inside


def read_folders(root: Path) -> Iterator[Item]:
    """Lists the images of a folder per class, at any depth.

    The patient is what stands before the first ``_`` of the file's name. A file without ``_`` is a patient of its own.

    Args:
        root: folder that holds the class folders.
    """
    for folder in sorted(p for p in root.iterdir() if p.is_dir()):
        for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES):
            name = path.relative_to(root).as_posix()
            try:
                inside(root, name)
            except MedmarkError as error:
                yield Item(path, printable(name), printable(folder.name), problem=str(error))
                continue
            patient, underscore, _ = path.stem.partition("_")
            rule = "what stands before the first '_' of the file's name" if underscore else "the file's name"
            yield Item(path, name, folder.name, patient, rule)
