"""Collect the report of a marked release from the artifacts of its pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from medmark.components.dataset.codecs import decode_png
from medmark.components.dataset.display import to_unit
from medmark.components.dataset.release import Record, Release
from medmark.components.report.figures import Picture
from medmark.components.report.report import write_report
from medmark.components.saliency.extract import load_saliency, stack_saliency

PANELS = 4  # arbitrary: two pages of print


def report_release(
    clean_dir: str | Path,
    marked_dir: str | Path,
    evidence_dir: str | Path,
    saliency_dir: str | Path,
    generator_dir: str | Path,
    models_dirs: list[str | Path],
    check_dir: str | Path,
    out_html: str | Path,
    *,
    parameters: dict,
) -> None:
    """Collects what :func:`medmark.components.report.report.write_report` shows.

    The images shown are marked ones from the most to the least changed, not the prettiest.

    Args:
        clean_dir, marked_dir: the two releases.
        evidence_dir: private evidence.
        saliency_dir: maps.
        generator_dir: for its training history.
        models_dirs: folders with ``models.json``.
        check_dir: ``verdict.json`` and ``scores.parquet``.
        out_html: file to write.
        parameters: of the run.
    """
    verdict = json.loads((Path(check_dir) / "verdict.json").read_bytes())
    ledger = pq.read_table(Path(evidence_dir) / "ledger.parquet").to_pandas()
    chosen = choose(ledger[ledger.role == "mark"])
    clean, marked = (_records(Release(directory), set(chosen)) for directory in (clean_dir, marked_dir))
    maps = load_saliency(saliency_dir)
    names = Release(clean_dir).class_names
    pictures = [
        Picture(
            image_id=image_id,
            label=names[clean[image_id].label],
            clean=_shown(clean[image_id]),
            marked=_shown(marked[image_id]),
            saliency=stack_saliency(maps, [image_id])[0, 0].numpy(),
            note=note,
        )
        for image_id, note in chosen.items()
    ]
    histories = {"generator": json.loads((Path(generator_dir) / "history.json").read_bytes())}
    for directory in models_dirs:
        for entry in json.loads((Path(directory) / "models.json").read_bytes())["models"]:
            histories[entry["name"]] = entry["history"]
    write_report(
        out_html,
        verdict=verdict,
        pictures=pictures,
        histories=histories,
        scores=pd.read_parquet(Path(check_dir) / "scores.parquet"),
        parameters=parameters,
    )


def choose(ledger: pd.DataFrame) -> dict[str, str]:
    """Chooses the images to show and says why: the marked images at the quantiles of SSIM, least alike first.

    Args:
        ledger: ``image_id`` and ``ssim`` of every marked image.
    """
    ordered = ledger.sort_values(["ssim", "image_id"]).reset_index(drop=True)
    chosen: dict[str, str] = {}
    for i in range(PANELS):
        rank = round(i / (PANELS - 1) * (len(ordered) - 1))
        place = {0: "the most changed", len(ordered) - 1: "the least changed"}.get(rank, f"number {rank + 1}")
        where = f"{place} of {len(ordered)} marked images"
        chosen.setdefault(ordered.image_id[rank], f"{where}, likeness (SSIM) {ordered.ssim[rank]:.3f}")
    return chosen


def _records(release: Release, wanted: set[str]) -> dict[str, Record]:
    return {r.image_id: r for r in release.records("train") if r.image_id in wanted}


def _shown(record: Record) -> np.ndarray:
    return to_unit(decode_png(record.image), record.bits, record.display)
