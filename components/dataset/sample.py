"""Drawing a small release from a large one."""

from __future__ import annotations

import hashlib
from pathlib import Path

from medmark.components.dataset.release import SPLITS, Release
from medmark.components.dataset.release_writer import ReleaseWriter


def sample(release_dir: str | Path, out: str | Path, *, train_images: int, seed: int) -> Release:
    """Draws patients until enough training images are there, and the same share of the other splits' patients.

    No image is decoded. A release that is smaller is taken whole.

    Args:
        release_dir: release to draw from.
        out: folder to make; must be empty or absent.
        train_images: least number of training images, if there are so many.
        seed: of the draw.
    """
    source = Release(release_dir)
    patients: dict[str, dict[str, int]] = {split: {} for split in SPLITS}
    for record in source.records(columns=["patient_id", "split"]):
        counts = patients[record.split]
        counts[record.patient_id] = counts.get(record.patient_id, 0) + 1
    in_training = sum(patients["train"].values())
    share = min(1.0, train_images / in_training) if in_training else 1.0
    chosen = set()
    for counts in patients.values():
        drawn, wanted = 0, share * sum(counts.values())
        for patient in sorted(counts, key=lambda p: hashlib.sha256(f"{seed}:{p}".encode()).digest()):
            if drawn >= wanted:
                break
            chosen.add(patient)
            drawn += counts[patient]
    with ReleaseWriter.child(out, source, version=f"sample of {source.version}") as writer:
        for record in source.records():
            if record.patient_id in chosen:
                writer.add(record)
    return Release(out)
