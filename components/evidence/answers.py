"""What models answered to the queries, and ``innocents.parquet`` of the evidence: the answers of the benign models."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from medmark.components.base.errors import MedmarkError
from medmark.components.base.text import reason_of
from medmark.components.evidence.evidence import read_evidence

BENIGN = "innocents.parquet"
BENIGN_SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("image_id", pa.string()),
        ("p_clean", pa.float64()),
        ("p_marked", pa.float64()),
        ("p_control", pa.float64()),
        ("is_clean", pa.bool_()),
        ("is_marked", pa.bool_()),
    ]
)


@dataclass
class Answers:
    """What one model said of N query images.

    Attributes:
        p_clean, p_marked: (N,) float64, P(target class) without and with the mark.
        p_control: (N,) likewise with the other generator's mark; None if nobody asked.
        is_clean, is_marked: (N,) bool, whether the target class alone is the most probable one.
    """

    p_clean: np.ndarray
    p_marked: np.ndarray
    p_control: np.ndarray | None
    is_clean: np.ndarray
    is_marked: np.ndarray

    @property
    def delta_p(self) -> float:
        """Mean rise of the target class's probability by the mark, -1 to 1."""
        return float((self.p_marked - self.p_clean).mean())

    @property
    def flips(self) -> int:
        """Images that the mark turns into the target class."""
        return int((self.is_marked & ~self.is_clean).sum())


def write_benign(evidence_dir: str | Path, answers: pd.DataFrame) -> None:
    """Writes the answers of the benign models, a row for each model and image.

    Args:
        evidence_dir: gets ``innocents.parquet``.
        answers: columns of :data:`BENIGN_SCHEMA`; others are left out.
    """
    table = pa.Table.from_pandas(answers, schema=BENIGN_SCHEMA, preserve_index=False)
    pq.write_table(table, Path(evidence_dir) / BENIGN, compression="zstd")


def read_benign(evidence_dir: str | Path, image_ids: list[str]) -> dict[str, Answers]:
    """Answers of the benign models to the query images, by model.

    Args:
        evidence_dir: complete evidence.
        image_ids: of the queries, in their order.

    Raises:
        MedmarkError: the evidence is not complete, or damaged.
    """
    path = Path(evidence_dir) / BENIGN
    if BENIGN not in read_evidence(evidence_dir)["files"]:
        raise MedmarkError(
            f"incomplete evidence: {evidence_dir} has no {BENIGN}; use what a finished mark-release wrote"
        )
    try:
        rows = pq.read_table(path, schema=BENIGN_SCHEMA).to_pandas()
        models = {str(name): part.set_index("image_id").loc[image_ids] for name, part in rows.groupby("model")}
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise MedmarkError(f"damaged evidence: {path} ({reason_of(error)}); restore it from a backup") from error
    columns = [field.name for field in fields(Answers)]
    return {name: Answers(**{column: part[column].to_numpy() for column in columns}) for name, part in models.items()}
