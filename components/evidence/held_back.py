"""Patients whose images are never published, and what suspects are asked about for it: ``held_back.parquet`` of the evidence.

A lot draws the patients among those of the training images that carry neither mark nor decoy. The file holds images of some of them and of
patients who were published, in an order that another lot draws; which are which follows from the seed, so evidence cannot name others than
were drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.arrays import as_unit, resize
from medmark.components.dataset.codecs import decode_png

HELD_BACK = "held_back.parquet"
HELD_BACK_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("patient_id", pa.string()),
        ("label", pa.int32()),
        ("expected", pa.float64()),  # mean log-odds of the class by benign models
        ("image", pa.binary()),  # PNG, 8 bits, as shown
    ]
)


class Shown(NamedTuple):
    """Images that a suspect is asked about at once.

    Attributes:
        patients: pseudonym of each.
        held_back: (N,) bool, whether it was never published.
        labels: (N,) int64 classes.
        expected: (N,) float64, mean log-odds of the class by benign models.
        images: (N, 1, S, S) float32 in [0, 1].
    """

    patients: list[str]
    held_back: np.ndarray
    labels: np.ndarray
    expected: np.ndarray
    images: torch.Tensor


def is_held_back(seed: int, patient_id: str, share: float) -> bool:
    """Whether the lot falls on a patient: with the chance ``share`` over seeds, for each patient alone."""
    drawn = hashlib.sha256(f"{seed}:held back:{patient_id}".encode()).digest()
    return int.from_bytes(drawn[:6]) < share * 2**48


def write_held_back(evidence_dir: str | Path, rows: list[dict[str, Any]]) -> None:
    """Writes what suspects are asked about; see :data:`HELD_BACK_SCHEMA`."""
    table = pa.Table.from_pylist(rows, schema=HELD_BACK_SCHEMA)
    pq.write_table(table, Path(evidence_dir) / HELD_BACK, compression="zstd")


def read_held_back(evidence_dir: str | Path, *, size: int, seed: int, share: float) -> Iterator[Shown]:
    """What :func:`write_held_back` wrote, some images at a time.

    Args:
        evidence_dir: private evidence.
        size: side in pixels.
        seed: of the release.
        share: with which the lot was drawn, ``hold_back`` of the evidence.

    Raises:
        MedmarkError: the file is missing or damaged.
    """
    path = Path(evidence_dir) / HELD_BACK
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=64):
            rows = batch.cast(HELD_BACK_SCHEMA).to_pylist()
            shown = [torch.from_numpy(decode_png(row["image"]))[None, None] for row in rows]
            patients = [row["patient_id"] for row in rows]
            yield Shown(
                patients,
                np.array([is_held_back(seed, patient, share) for patient in patients]),
                np.array([row["label"] for row in rows], np.int64),
                np.array([row["expected"] for row in rows], np.float64),
                torch.cat([resize(as_unit(image), size) for image in shown]),
            )
    except (OSError, KeyError, ValueError, TypeError, pa.ArrowException, MedmarkError) as error:
        raise MedmarkError(f"unreadable images: {path} ({error}); restore the evidence folder from a backup") from error
