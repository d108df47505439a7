"""What models answered to waves of a public table, and ``waves.parquet`` of the evidence: the answers of benign models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from medmark.components.base.errors import MedmarkError
from medmark.components.base.text import reason_of
from medmark.components.evidence.evidence import read_evidence

WAVES = "waves.parquet"
# asked about: periods per image side, a little beyond those of keys, and directions, each with its mirror image. A model answers
# to waves within a quarter octave and 20 degrees (benchmarks/results/frontier_kermany.json), so what lies between is interpolated
CYCLES = tuple(float(c) for c in np.geomspace(3.5, 13.5, 10))
DEGREES = tuple(float(d) for d in np.linspace(0.0, 90.0, 9))
DIGITS = 9  # that tell waves apart
WAVES_SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("cycles", pa.float64()),
        ("degrees", pa.float64()),
        ("log_odds", pa.float64()),
        ("labels", pa.float64()),
    ]
)


@dataclass
class KeyAnswers:
    """How the waves change what one model says of the query images, by frequency and direction.

    Attributes:
        log_odds: (10, 9) float64, mean change of log P(target) / P(not target), in [-18.5, 18.5].
        labels: (10, 9) float64, change of the share of images whose only most probable class is the target, -1 to 1.
    """

    log_odds: np.ndarray
    labels: np.ndarray


def write_waves(folder: str | Path, answers: dict[str, KeyAnswers]) -> None:
    """Writes ``waves.parquet``.

    Args:
        folder: gets the file.
        answers: of benign models, by name.
    """
    waves = [(cycles, degrees) for cycles in CYCLES for degrees in DEGREES]
    rows = [
        {"model": name, "cycles": wave[0], "degrees": wave[1], "log_odds": odds, "labels": labels}
        for name, given in answers.items()
        for wave, odds, labels in zip(waves, given.log_odds.ravel(), given.labels.ravel(), strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=WAVES_SCHEMA), Path(folder) / WAVES, compression="zstd")


def read_waves(folder: str | Path) -> dict[str, KeyAnswers]:
    """What :func:`write_waves` wrote.

    Raises:
        MedmarkError: the file is missing or damaged.
    """
    path = Path(folder) / WAVES
    try:
        rows = pq.read_table(path, schema=WAVES_SCHEMA).to_pandas()
        return {str(name): _of_model(part) for name, part in rows.groupby("model")}
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise MedmarkError(f"damaged evidence: {path} ({reason_of(error)}); restore it from a backup") from error


def read_benign_waves(evidence_dir: str | Path) -> list[KeyAnswers]:
    """Answers of the benign models to the waves; none in evidence of before marks had a key.

    Args:
        evidence_dir: complete evidence.

    Raises:
        MedmarkError: the file is damaged.
    """
    return list(read_waves(evidence_dir).values()) if WAVES in read_evidence(evidence_dir)["files"] else []


def _of_model(rows: pd.DataFrame) -> KeyAnswers:
    # processors disagree about the last digit of a power
    known = rows.round({"cycles": DIGITS}).set_index(["cycles", "degrees"])
    ordered = known.loc[[(round(c, DIGITS), d) for c in CYCLES for d in DEGREES]]
    shape = (len(CYCLES), len(DEGREES))
    answers = KeyAnswers(ordered.log_odds.to_numpy().reshape(shape), ordered.labels.to_numpy().reshape(shape))
    if len(known) != len(ordered) or not all(np.isfinite(x).all() for x in (answers.log_odds, answers.labels)):
        raise ValueError("other waves than were asked about")
    return answers
