"""The images that suspects are asked about: ``queries.parquet`` of the evidence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.arrays import resize
from medmark.components.dataset.codecs import decode_png
from medmark.components.dataset.display import to_unit

QUERIES = "queries.parquet"
QUERIES_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("label", pa.int32()),
        ("bits", pa.int32()),
        ("dicom", pa.string()),  # display attributes as JSON, or null
        # PNG: as published without the mark, with the release's mark, and with another generator's
        ("clean", pa.binary()),
        ("marked", pa.binary()),
        ("control", pa.binary()),
    ]
)


@dataclass
class QuerySet:
    """The images that a suspect is asked about: none of the target class, each with and without the mark.

    Attributes:
        clean: (N, 1, S, S) float32 in [0, 1].
        marked: the same images with the release's mark.
        control: the same images with another generator's mark, or None.
        image_ids: N different names. Images are taken for independent: at most one of a patient is best.
        target: index of the target class.

    Raises:
        MedmarkError: the tensors do not go together, or an image counts twice.
    """

    clean: torch.Tensor
    marked: torch.Tensor
    control: torch.Tensor | None
    image_ids: list[str]
    target: int

    def __post_init__(self) -> None:
        shapes = {tuple(images.shape) for images in (self.clean, self.marked, self.control) if images is not None}
        if len(shapes) != 1 or self.clean.ndim != 4 or len(self.image_ids) != len(self.clean):
            raise MedmarkError(
                f"query images of shapes {sorted(shapes)} with {len(self.image_ids)} names do not go together; each"
                " image is needed clean and marked, (N, 1, S, S)"
            )
        if len(set(self.image_ids)) != len(self.image_ids):
            raise MedmarkError("a query image is named twice, which would count its evidence twice; remove one of them")

    def __len__(self) -> int:
        return len(self.clean)


def write_query_rows(evidence_dir: str | Path, rows: list[dict[str, Any]]) -> None:
    """Writes the query images, in the order in which they are asked about; see :data:`QUERIES_SCHEMA`."""
    table = pa.Table.from_pylist(rows, schema=QUERIES_SCHEMA)
    pq.write_table(table, Path(evidence_dir) / QUERIES, compression="zstd")


def read_query_rows(
    evidence_dir: str | Path, columns: list[str] | None = None, *, start: int = 0, stop: int | None = None
) -> list[dict[str, Any]]:
    """What :func:`write_query_rows` wrote.

    Args:
        evidence_dir: private evidence.
        columns: to read; None: all.
        start, stop: the first row to read, and the one before which to stop; None: all.

    Raises:
        MedmarkError: the file is missing or damaged.
    """
    path = Path(evidence_dir) / QUERIES
    try:
        return pq.read_table(path, columns=columns)[start:stop].to_pylist()
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


def query_ids(evidence_dir: str | Path) -> list[str]:
    """Names of the query images, in the order of :func:`read_queries`.

    Raises:
        MedmarkError: the file is missing or damaged.
    """
    return [row["image_id"] for row in read_query_rows(evidence_dir, ["image_id"])]


def read_queries(
    evidence_dir: str | Path, *, size: int, target: int, start: int = 0, stop: int | None = None
) -> QuerySet:
    """Query images at a suspect's input size.

    Args:
        evidence_dir: private evidence.
        size: side in pixels.
        target: index of the target class.
        start, stop: the first image to read, and the one before which to stop; None: all.

    Raises:
        MedmarkError: the file is missing or damaged.
    """
    variants: dict[str, list[torch.Tensor]] = {"clean": [], "marked": [], "control": []}
    image_ids = []
    try:
        for row in read_query_rows(evidence_dir, start=start, stop=stop):
            image_ids.append(row["image_id"])
            display = json.loads(row["dicom"]) if row["dicom"] else None
            for name, tensors in variants.items():
                shown = to_unit(decode_png(row[name]), row["bits"], display)
                tensors.append(resize(torch.from_numpy(shown)[None, None], size))
    except (OSError, KeyError, ValueError, TypeError, pa.ArrowException) as error:
        raise _unreadable(Path(evidence_dir) / QUERIES, error) from error
    clean, marked, control = (torch.cat(tensors) for tensors in variants.values())
    return QuerySet(clean, marked, control, image_ids, target)


def _unreadable(path: Path, error: Exception) -> MedmarkError:
    return MedmarkError(f"unreadable queries: {path} ({error}); restore the evidence folder from a backup")
