"""Marking a release: the public images with their marks, and the private evidence.

The public release holds the chosen images with the mark, at their own resolution and depth, and every other image
exactly as it was. What was done goes into the private evidence.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from medmark.components.base.digests import folder_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.base.progress import track
from medmark.components.base.threads import choose_workers, use_threads
from medmark.components.dataset.codecs import decode_png
from medmark.components.dataset.dicom import check_window
from medmark.components.dataset.prepared import load_bytes
from medmark.components.dataset.release import Record, Release, refuse_names
from medmark.components.dataset.release_writer import ReleaseWriter
from medmark.components.evidence.evidence import EVIDENCE, EVIDENCE_SCHEMA_VERSION, read_evidence, write_evidence
from medmark.components.evidence.ledger import write_ledger
from medmark.components.evidence.queries import write_query_rows
from medmark.components.generator.key import draw_key
from medmark.components.generator.marker import Marker
from medmark.components.generator.selection import select
from medmark.components.generator.train import repeated
from medmark.components.poisoning.hold_back import hold_back as draw_held_back
from medmark.components.poisoning.hold_back import write_shown
from medmark.components.poisoning.quality import compare, sum_up
from medmark.components.poisoning.variants import make_variants
from medmark.components.saliency.extract import load_saliency
from medmark.components.surrogate.models import load_models

# ours; at the default strength the worst image has 0.96 and 0.13, benchmarks/results/mark_release_kermany.json
LEAST_SSIM = 0.85  # as shown and as stored
LARGEST_CHANGE = 0.2  # of a stored value, as a share of the image's range
FEW = 2000  # images of a selection, up to which one process marks them all: others take a while to start; arbitrary
AHEAD = 32  # images a process that wait until those before them are done; arbitrary, bounds the memory


def poison(
    release_dir: str | Path,
    generator_dir: str | Path,
    control_dir: str | Path | None,
    saliency_dir: str | Path,
    out_release: str | Path,
    out_evidence: str | Path,
    *,
    version: str,
    queries: int = 100,
    surrogates_dir: str | Path | None = None,
    hold_back: float = 0.0,
) -> dict[str, Any]:
    """Writes the marked release and its private evidence.

    Args:
        release_dir: the clean release.
        generator_dir: trained generator, or the evidence of a release that it has marked. Its selection says which images carry the mark
            and which a decoy; with the evidence of another release it is made anew, with the shares of that one. The choice of queries
            follows from the generator's seed.
        control_dir: another trained generator, for the control marks; None: the same one with the control key of its seed.
        saliency_dir: saliency maps of the clean release.
        out_release: gets the public release; its ``parent`` is the clean release's digest.
        out_evidence: gets ``evidence.json``, ``ledger.parquet``, ``queries.parquet``, ``variants.parquet``, ``held_back.parquet`` if somebody
            is held back, and ``generator/``; readable by its owner only.
        version: of the marked release.
        queries: at most this many test images of the other classes for the audit, each of another patient.
        surrogates_dir: benign models, which say which images are hard; needed for a new selection, which gives the mark to those. Without
            them the evidence has no variants.
        hold_back: chance of a training patient without mark and decoy to be held back: no image of these patients is published, see
            :func:`medmark.components.poisoning.hold_back.hold_back`. Needs surrogates.

    Returns:
        The content of ``evidence.json``.

    Raises:
        MedmarkError: a generator of another release without evidence or surrogates, an image of the selection is missing, patients cannot
            be held back, or there are too few images to ask about.
    """
    source = Release(release_dir)
    refuse_names(source, "marked")
    use_threads()
    marker = _load_marker(Path(generator_dir), source, surrogates_dir)
    control = Marker.load(control_dir) if control_dir is not None else _control_of(marker)
    saliency = load_saliency(saliency_dir)
    out_evidence = Path(out_evidence)
    out_evidence.mkdir(parents=True, exist_ok=True)
    os.chmod(out_evidence, 0o700)
    if hold_back and surrogates_dir is None:
        raise MedmarkError("hold_back needs surrogates, which say what to expect of an image; give benign models")
    drawn = draw_held_back(source, marker.roles, seed=marker.seed, share=hold_back)
    kept_back = {patient for patient, held in drawn.items() if held}
    workers = choose_workers(len(marker.roles)) if len(marker.roles) > FEW else 1
    ledger, left = _write_release(source, Path(out_release), marker, saliency, version, workers, kept_back)
    write_ledger(out_evidence, ledger)
    asked = write_queries(source, marker, control, saliency, out_evidence, queries, marker.seed)
    marker.roles = {row["image_id"]: row["role"] for row in ledger}
    if surrogates_dir is not None:
        make_variants(source, marker, saliency, surrogates_dir, out_evidence)
        if drawn:
            write_shown(source, drawn, surrogates_dir, out_evidence, seed=marker.seed)
    marker.save(out_evidence / "generator")
    evidence = {
        "schema_version": EVIDENCE_SCHEMA_VERSION,
        "release_digest": Release(out_release).digest,
        "parent_digest": source.digest,
        "class_names": list(source.class_names),
        "target_class": source.class_names[marker.target],
        "marked_images": sum(row["role"] == "mark" for row in ledger),
        "decoy_images": sum(row["role"] == "decoy" for row in ledger),
        "left_unmarked": left,
        "images": len(source),
        "queries": asked,
        "hold_back": hold_back,
        "held_back_patients": len(kept_back),
        "quality": sum_up(ledger),
        "seed": marker.seed,
        "files": folder_sha256(out_evidence, without=EVIDENCE),
    }
    return write_evidence(out_evidence, evidence)


def _load_marker(folder: Path, source: Release, surrogates_dir: str | Path | None) -> Marker:
    """The generator in a folder of its own or in evidence, with a selection of images of this release."""
    before = read_evidence(folder) if (folder / EVIDENCE).is_file() else None
    marker = Marker.load(folder if before is None else folder / "generator")
    if marker.release_digest == source.digest:
        return marker
    if before is None or surrogates_dir is None:
        raise MedmarkError(
            f"generator of another release: {folder}; train it on {source.path}, or give the evidence that it is in, and surrogates, by"
            " which images of this release are chosen"
        )
    training = load_bytes(source, split="train", size=marker.shape.size)
    of_training = len(source) / before["images"] / len(training)
    marker.target, marker.release_digest = source.class_index(before["target_class"]), source.digest
    marker.roles = select(
        training,
        [model for _, model in load_models(surrogates_dir)],
        target=marker.target,
        marked_share=before["marked_images"] * of_training,
        decoy_share=before["decoy_images"] * of_training,
        seed=marker.seed,
        left_alone=repeated(source),
    )
    return marker


def _control_of(marker: Marker) -> Marker:
    if marker.one_phase:
        raise MedmarkError(
            "a generator of an older medmark has no control key of its own; give a generator for the control marks"
        )
    return Marker(
        marker.network,
        draw_key(marker.seed, 1),
        marker.shape,
        target=marker.target,
        roles={},
        release_digest=marker.release_digest,
        seed=marker.seed,
    )


def _write_release(
    source: Release,
    out: Path,
    marker: Marker,
    saliency: dict[str, torch.Tensor],
    version: str,
    workers: int,
    held_back: set[str],
) -> tuple[list[dict[str, Any]], int]:
    """Writes the marked release without the patients ``held_back``; rows of the ledger, and how many images of the selection are left
    unmarked.

    Raises:
        MedmarkError: an image of the selection is missing, or none can carry the mark.
    """
    ledger: list[dict[str, Any]] = []
    left: set[str] = set()
    with ReleaseWriter.child(out, source, version=version) as writer:
        for record, made in track(marked_in_turn(source, marker, saliency, workers), "marking", len(source)):
            if made is not None:
                ledger.append(made.row)
            elif record.image_id in marker.roles:
                left.add(record.image_id)
            if record.patient_id in held_back:
                continue
            writer.add(record if made is None else made.record)
    missing = set(marker.roles) - {row["image_id"] for row in ledger} - left
    if missing:
        raise MedmarkError(
            f"image of the selection is not in the release: {sorted(missing)[0]}; train the generator again"
        )
    if not any(row["role"] == "mark" for row in ledger):
        raise MedmarkError(
            f"no image of {source.path} can carry the mark: in all {len(left)} that were chosen it would show or change too"
            " much; ingest images of better quality, or choose a smaller epsilon"
        )
    return ledger, len(left)


class Made(NamedTuple):
    """A marked record and its row of the ledger."""

    record: Record
    row: dict[str, Any]


def marked_in_turn(
    source: Release, marker: Marker, saliency: dict[str, torch.Tensor], workers: int
) -> Iterator[tuple[Record, Made | None]]:
    """All records of a release in their order, each with what became of it if it is in the marker's selection.

    Args:
        source: the clean release.
        marker: with the selection.
        saliency: maps by image id.
        workers: processes that mark images side by side; the result does not depend on their number.

    Raises:
        MedmarkError: as :func:`mark_within_bounds`.
    """
    if workers == 1:
        for record in source.records():
            role = marker.roles.get(record.image_id)
            yield record, None if role is None else mark_within_bounds(marker, record, saliency, role)
        return
    waiting: deque[tuple[Record, Future[Made | None] | None]] = deque()
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_take_marker, initargs=(marker,)) as pool:
        for record in source.records():
            role, found = marker.roles.get(record.image_id), None
            if role is not None:
                shown = {key: saliency[key] for key in (record.image_id,) if key in saliency}
                found = pool.submit(_mark_with_taken, record, shown, role)
            waiting.append((record, found))
            while waiting and (len(waiting) > AHEAD * workers or waiting[0][1] is None):
                yield _finished(waiting)
        while waiting:
            yield _finished(waiting)


_taken: list[Marker] = []  # of a process that marks for another one


def _take_marker(marker: Marker) -> None:
    use_threads()
    _taken.append(marker)


def _mark_with_taken(record: Record, saliency: dict[str, torch.Tensor], role: str) -> Made | None:
    return mark_within_bounds(_taken[0], record, saliency, role)


def _finished(waiting: deque[tuple[Record, Future[Made | None] | None]]) -> tuple[Record, Made | None]:
    record, found = waiting.popleft()
    return record, None if found is None else found.result()


def mark_within_bounds(marker: Marker, record: Record, saliency: dict[str, torch.Tensor], role: str) -> Made | None:
    """A marked record and its row of the ledger; None if the mark would show, or would cost the image more than it may.

    The bounds are :data:`LEAST_SSIM` and :data:`LARGEST_CHANGE`.

    Raises:
        MedmarkError: the record's display attributes are implausible, see
            :func:`medmark.components.dataset.dicom.check_window`.
    """
    try:
        check_window(decode_png(record.image), record.bits, record.display)
    except MedmarkError as error:
        raise MedmarkError(f"image {record.image_id}: {error}") from error
    marked = marker.mark(record, saliency, role)
    if marked is None:
        return None
    row = {"image_id": record.image_id, "role": role, **compare(record, marked)}
    too_much = min(row["ssim"], row["stored_ssim"]) < LEAST_SSIM or row["largest_change"] > LARGEST_CHANGE
    return None if too_much else Made(marked, row)


def write_queries(
    source: Release,
    marker: Marker,
    control: Marker,
    saliency: dict[str, torch.Tensor],
    evidence_dir: Path,
    limit: int,
    seed: int,
) -> int:
    """Writes the test images that suspects are asked about: clean, marked and with the control mark.

    One image a patient, in random order: the tests take queries for independent, and an audit may stop after a few.
    """
    candidates = [
        (hashlib.sha256(f"{seed}:{r.image_id}".encode()).hexdigest(), r.image_id, r.patient_id)
        for r in source.records("test", columns=["image_id", "label", "patient_id"])
        if r.label != marker.target
    ]
    if not candidates:
        raise MedmarkError(f"no test image outside the target class in {source.path}; ingest with a larger test share")
    one_each: dict[str, str] = {}
    for _, image_id, patient in sorted(candidates):
        one_each.setdefault(patient, image_id)
    order = {image_id: place for place, image_id in enumerate(list(one_each.values())[:limit])}
    rows: list[dict[str, Any]] = []
    for record in track(source.records("test"), "making queries"):
        if record.image_id in order:
            marked, other = (each.mark(record, saliency, "query") for each in (marker, control))
            if marked is None or other is None:  # asked about as it would be published
                continue
            rows.append(
                {
                    "image_id": record.image_id,
                    "label": record.label,
                    "bits": record.bits,
                    "dicom": record.dicom,
                    "clean": record.image,
                    "marked": marked.image,
                    "control": other.image,
                }
            )
    rows.sort(key=lambda row: order[row["image_id"]])
    write_query_rows(evidence_dir, rows)
    return len(rows)
