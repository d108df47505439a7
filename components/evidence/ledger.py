"""The ledger of the evidence, ``ledger.parquet``: what marking did to each image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from medmark.components.base.errors import MedmarkError

LEDGER = "ledger.parquet"
LEDGER_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("role", pa.string()),  # mark or decoy
        ("clean_sha256", pa.string()),
        ("marked_sha256", pa.string()),
        # of the images as shown; what they mean: poisoning/quality.py
        ("psnr", pa.float64()),
        ("ssim", pa.float64()),
        ("haarpsi", pa.float64()),
        ("lpips", pa.float64()),
        # of the stored values
        ("stored_psnr", pa.float64()),
        ("stored_ssim", pa.float64()),
        ("largest_change", pa.float64()),
    ]
)


def write_ledger(evidence_dir: str | Path, rows: list[dict[str, Any]]) -> None:
    """Writes the ledger: one row for each image that was changed."""
    table = pa.Table.from_pylist(rows, schema=LEDGER_SCHEMA)
    pq.write_table(table, Path(evidence_dir) / LEDGER, compression="zstd")


def read_ledger(evidence_dir: str | Path, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """Rows of the ledger; those of evidence by an earlier medmark lack some of the qualities.

    Args:
        evidence_dir: private evidence.
        columns: to read; None: all.

    Raises:
        MedmarkError: the file is missing or damaged.
    """
    path = Path(evidence_dir) / LEDGER
    try:
        return pq.read_table(path, columns=columns).to_pylist()
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise MedmarkError(f"unreadable ledger: {path} ({error}); restore the evidence folder from a backup") from error
