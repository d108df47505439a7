"""CheXpert's CSV (Irvin et al. 2019): what its findings and paths mean.

A column of findings holds 1 (there), 0 or blank (not there) and -1 (uncertain); a path names the patient as ``patient00001``.
The rows are read by :mod:`medmark.components.dataset.csv_manifests`, like those of any CSV.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

UNCERTAIN = ("ones", "zeros", "ignore")
PATIENT_RULE = "the patient's number in CheXpert's path"
_PATIENT = re.compile(r"patient(\d+)")
_VALUES = {"", "0", "1", "-1", "0.0", "1.0", "-1.0"}


def is_finding(cells: Iterable[str]) -> bool:
    """Whether a column's cells are all CheXpert's values."""
    return set(cells) <= _VALUES


def finding_label(cell: str, finding: str, uncertain: str) -> str | None:
    """Returns the class of one row.

    Args:
        cell: 1, 0, -1 or blank.
        finding: name of the column; its two classes are ``finding`` and ``no_finding``.
        uncertain: class of -1: ``ones`` and ``zeros`` read it as 1 and 0, ``ignore`` as no label.

    Returns:
        The class, or None for -1 under ``ignore``.
    """
    value = float(cell) if cell else 0.0
    if value == -1:
        if uncertain == "ignore":
            return None
        value = 1.0 if uncertain == "ones" else 0.0
    return finding if value == 1 else f"no_{finding}"


def patient_in_path(path: str) -> str | None:
    """Returns ``patientNNNNN`` of a path, or None."""
    match = _PATIENT.search(path)
    return match.group(0) if match else None
