"""Variants of marked images, to be asked about: ``variants.parquet`` of the evidence.

A variant is a marked image with one of several waves that were drawn alike. One of each image has the wave that was published, the others
never were. All are made in the same way at the size in the file, so details finer than that are not in them. They are asked about in the order of the file, in which the seed's lot decides where the published one is.
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

VARIANTS = "variants.parquet"
OTHERS = 8  # variants of an image that were never published; ours
VARIANTS_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("label", pa.int32()),
        ("variants", pa.list_(pa.binary())),  # PNG, 8 bits, as shown
    ]
)


class VariantsOf(NamedTuple):
    """The variants of one image.

    Attributes:
        label: its class.
        published: place of the variant that was published.
        images: (1 + OTHERS, 1, S, S) float32 in [0, 1].
    """

    label: int
    published: int
    images: torch.Tensor


def published_at(seed: int, image_id: str) -> int:
    """Place of the published variant, 0 to OTHERS, each with the same chance over seeds; evidence cannot name another one."""
    return int.from_bytes(hashlib.sha256(f"{seed}:published:{image_id}".encode()).digest()) % (1 + OTHERS)


def write_variants(evidence_dir: str | Path, rows: list[dict[str, Any]]) -> None:
    """Writes the variants; see :data:`VARIANTS_SCHEMA`."""
    table = pa.Table.from_pylist(rows, schema=VARIANTS_SCHEMA)
    pq.write_table(table, Path(evidence_dir) / VARIANTS, compression="zstd")


def has_variants(evidence_dir: str | Path, evidence: dict[str, Any]) -> bool:
    """Whether there are variants to ask about: not in evidence of before there were any, or if no image could carry them.

    Args:
        evidence_dir: private evidence.
        evidence: content of its ``evidence.json``.
    """
    return VARIANTS in evidence["files"] and bool(pq.read_metadata(Path(evidence_dir) / VARIANTS).num_rows)


def read_variants(evidence_dir: str | Path, *, size: int, seed: int) -> Iterator[VariantsOf]:
    """What :func:`write_variants` wrote, image by image.

    Args:
        evidence_dir: private evidence.
        size: side in pixels.
        seed: of the release.

    Raises:
        MedmarkError: the file is missing or damaged.
    """
    path = Path(evidence_dir) / VARIANTS
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=16):
            for row in batch.cast(VARIANTS_SCHEMA).to_pylist():
                if len(row["variants"]) != 1 + OTHERS:
                    raise ValueError(f"{len(row['variants'])} variants of an image")
                shown = torch.from_numpy(np.stack([decode_png(image) for image in row["variants"]]))[:, None]
                yield VariantsOf(row["label"], published_at(seed, row["image_id"]), resize(as_unit(shown), size))
    except (OSError, KeyError, ValueError, TypeError, pa.ArrowException, MedmarkError) as error:
        raise MedmarkError(
            f"unreadable variants: {path} ({error}); restore the evidence folder from a backup"
        ) from error
