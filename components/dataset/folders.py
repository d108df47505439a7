"""Reading a folder per class, where the folder's name is the label, and folders of images and masks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medmark.components.base.errors import MedmarkError
from medmark.components.base.text import printable
from medmark.components.dataset.decoded import IMAGE_SUFFIXES
from medmark.components.dataset.items import Item, inside

MASK_SUFFIXES = (".png", ".tif", ".tiff")


def read_folders(root: Path) -> Iterator[Item]:
    """Lists the images of a folder per class, at any depth.

    The patient is what stands before the first ``_`` of the file's name. A file without ``_`` is a patient of its own.

    Args:
        root: folder that holds the class folders.
    """
    for folder in sorted(p for p in root.iterdir() if p.is_dir()):
        for item in _images(folder, root):
            item.label = folder.name if item.problem is None else printable(folder.name)
            yield item


def read_files(root: Path) -> list[tuple[str, Path]]:
    """Lists the image files of a folder at any depth, without labels: their names in the folder, and where they are.

    Raises:
        MedmarkError: there is none, or one of them lies outside through a link or has a name that cannot be shown.
    """
    items = list(_images(root, root))
    for item in items:
        if item.problem is not None:
            raise MedmarkError(item.problem)
    if not items:
        raise MedmarkError(f"no image in {root}; give a release, or a folder with PNG, JPEG, TIFF or DICOM files")
    return [(item.name, item.path) for item in items]


def read_masked(root: Path) -> Iterator[Item]:
    """Lists the images below ``images/``, at any depth, each with the mask of the same path below ``masks/``.

    The mask is a PNG or TIFF file, whatever the image is. Patients are named as in :func:`read_folders`.

    Args:
        root: folder that holds ``images`` and ``masks``.

    Raises:
        MedmarkError: one of the two is not there.
    """
    _check_folders(root)
    for item in _images(root / "images", root):
        _find_mask(item, root)
        yield item


def read_folders_with_lesions(root: Path) -> Iterator[Item]:
    """Lists the images of a folder per class below ``images/``, each with the mask of its lesions below ``masks/`` if it is there.

    Args:
        root: folder that holds ``images`` and ``masks``; both hold the class folders.

    Raises:
        MedmarkError: one of the two is not there.
    """
    _check_folders(root)
    for folder in sorted(p for p in (root / "images").iterdir() if p.is_dir()):
        for item in _images(folder, root):
            item.label = folder.name if item.problem is None else printable(folder.name)
            _find_mask(item, root, needed=False)
            yield item


def _check_folders(root: Path) -> None:
    if not (root / "images").is_dir() or not (root / "masks").is_dir():
        raise MedmarkError(
            f"no folders images and masks in {root}; put the masks into masks, named as their images are"
        )


def _find_mask(item: Item, root: Path, *, needed: bool = True) -> None:
    """Finds the mask of an image: the PNG or TIFF file of the same path below ``masks/``."""
    if item.problem is not None:
        return
    stem = item.path.relative_to(root / "images").with_suffix("").as_posix()
    there = [f"masks/{stem}{suffix}" for suffix in MASK_SUFFIXES if (root / f"masks/{stem}{suffix}").is_file()]
    if len(there) == 1:
        item.mask = inside(root, there[0])
    elif there or needed:
        item.problem = f"{len(there) or 'no'} masks: {item.name}; give it one, masks/{stem}.png"


def _images(folder: Path, root: Path) -> Iterator[Item]:
    """Lists the image files of a folder, without labels."""
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES):
        name = path.relative_to(root).as_posix()
        try:
            inside(root, name)
        except MedmarkError as error:
            yield Item(path, printable(name), "", problem=str(error))
            continue
        patient, underscore, _ = path.stem.partition("_")
        rule = "what stands before the first '_' of the file's name" if underscore else "the file's name"
        yield Item(path, name, "", patient, rule)
