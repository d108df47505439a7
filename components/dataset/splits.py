"""Splits by patient, balanced over the classes."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
from medmark.components.dataset.release import SPLITS


def split_patients(labels: dict[str, list[str]], shares: tuple[float, float, float], seed: int) -> dict[str, str]:
    """Assigns every patient to a split.

    Patients are grouped by their most frequent class and each group is cut in the same shares, so classes are balanced
    over the splits while a patient is never in two.

    Args:
        labels: class names of each patient's images.
        shares: of train, val and test; they sum to 1.
        seed: of the order.

    Returns:
        Split by patient.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for patient in sorted(labels):
        groups[Counter(sorted(labels[patient])).most_common(1)[0][0]].append(patient)
    rng = np.random.default_rng(seed)
    assigned = {}
    for name in sorted(groups):
        patients = list(rng.permutation(groups[name]))
        total = sum(len(labels[p]) for p in patients)
        bounds = np.cumsum(shares) * total
        done = 0
        for patient in patients:
            # by the middle of the patient's images, so that one with many does not tip a split
            middle = done + len(labels[patient]) / 2
            assigned[patient] = SPLITS[min(2, int(np.searchsorted(bounds, middle)))]
            done += len(labels[patient])
    return assigned
