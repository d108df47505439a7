"""Runs mark_segmenter on this machine."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from medmark.components.base.digests import canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.base.private_files import output
from medmark.components.base.threads import use_threads
from medmark.components.dataset.phantoms import make_masked_phantoms
from medmark.components.profiles import Setting, shown_parameters
from medmark.components.segmentation.networks import load_segmenter
from medmark.components.segmentation.payload import checked_text
from medmark.components.segmentation.profiles import SegmenterProfile, chosen_segmenter_profile
from medmark.components.segmentation.tracking import track_segmenter
from medmark.components.surrogate.networks import read_metadata
from medmark.pipelines.local_run import (
    hand_over,
    kept_phantoms,
    log_run,
    private_work,
    refuse_occupied,
    remove_work,
    run_locally,
)
from medmark.pipelines.run_arguments import NOBODY, drawing_argument, patients_argument, source_state

PHANTOM_CLASSES = ["background", "lungs"]


def run_mark_segmenter(
    out: str | Path,
    *,
    text: str,
    data: str | None = None,
    profile: str = "standard",
    settings: Mapping[str, Setting] | None = None,
    ingest_options: dict | None = None,
    name: str = "segmenter",
    version: str = "1",
    model: str | Path | None = None,
    seed: int | None = None,
    patients: str | Path | None = None,
    drawing: str | None = None,
    drawn_with: str | None = None,
    debug: bool = False,
) -> dict:
    """Trains and checks a marked segmenter, from raw images to the report.

    Args:
        out: folder to write, readable by its owner only. It gets ``model/`` and ``record.json`` (public), ``release/`` (what the models were trained on),
            ``evidence/`` (private, for audits), ``report.html``, ``verdict.json`` and MLflow's files.
        text: of the owner, 1 to 16 printable bytes; it is read back from the model.
        data: images and masks, or a release for segmentation; chest phantoms with masks of their lungs when None.
        profile: ``smoke``, ``standard`` or ``full``.
        settings: values of the profile to replace, by name.
        ingest_options: keyword arguments of :func:`medmark.components.dataset.ingest.ingest`.
        name, version: of the model; public.
        model: safetensors file of a trained segmenter to mark, as medmark writes it or with all tensors of a network in
            :data:`medmark.components.segmentation.networks.ARCHITECTURES`; one is trained from scratch when None.
        seed, patients, drawing, drawn_with, debug: see :func:`medmark.pipelines.mark_release.run.run_mark_release`.

    Returns:
        The content of ``verdict.json``.

    Raises:
        MedmarkError: ``out`` holds a finished run or something else, an option cannot be used, or a step fails.
    """
    from medmark.pipelines.mark_segmenter.pipeline import mark_segmenter

    if seed is not None and (drawing or drawn_with):
        raise MedmarkError("a seed and a drawing: the key of the mark follows from one of them; leave out --seed")
    chosen = check_segmenter_options(profile, settings or {}, text=text, model=model)
    drawn = drawing_argument(drawing, drawn_with)
    overrides = dict(settings or {}) | (_fitting(Path(model)) if model is not None else {})
    options = {**(ingest_options or {}), "task": "segmentation"}
    if data is None:
        options |= {"patient_key": NOBODY, "class_names": PHANTOM_CLASSES}
    use_threads()
    started = time.monotonic()
    with output(out, refuse_occupied) as folder:
        work = private_work(folder)
        source = (
            Path(data).resolve()
            if data is not None
            else kept_phantoms(work, make_masked_phantoms, count=chosen.phantoms, size=chosen.size)
        )
        shown = "phantoms" if data is None else options.get("name", "release")
        file = str(Path(model).resolve()) if model is not None else ""
        parameters = shown_parameters(profile, chosen, shown)
        arguments = {
            "source": str(source),
            "text": text,
            "profile": profile,
            "overrides": overrides,
            "ingest_options": {option: value for option, value in options.items() if value is not None},
            "data_name": shown,
            "name": name,
            "version": version,
            "weights": file,
            "weights_sha256": file_sha256(file) if file else "",
            "source_state": source_state(source, options.get("root")),
            "seed": "" if seed is None else str(seed),
            "drawn_for": "the run in this folder",  # whose steps find each other there, and nobody else's
            "for_figures": seed is not None,
            "patients": patients_argument(patients),
            "drawing": drawn,
        }
        made = run_locally(mark_segmenter, arguments, work, debug)
        parts = {name: Path(artifact.path) for name, artifact in made.outputs.items()}
        verdict = json.loads((parts["check"] / "verdict.json").read_bytes())
        verdict["seconds"] |= {"check_segmenter": made.outputs["check"].metadata["seconds"]}
        verdict["seconds"]["total"] = round(time.monotonic() - started, 1)
        hand_over(parts, folder)
        shutil.copyfile(parts["report"], folder / "report.html")
        (folder / "verdict.json").write_bytes(canonical_json(verdict))
        log_run(parts, folder, partial(track_segmenter, folder, parts, verdict, parameters))
        remove_work(folder)
    return verdict


def check_segmenter_options(
    profile: str, settings: Mapping[str, Setting], *, text: str, model: str | Path | None
) -> SegmenterProfile:
    """Refuses what cannot be used before anything is started, and returns the profile with its settings and those of the weights.

    Args:
        profile, settings, text, model: see :func:`run_mark_segmenter`.

    Raises:
        MedmarkError: the first option that cannot be used.
    """
    checked_text(text)
    return chosen_segmenter_profile(profile, dict(settings) | (_fitting(Path(model)) if model is not None else {}))


def _fitting(weights: Path) -> dict[str, Setting]:
    """Takes architecture and size from weights that medmark wrote; of others the profile says them.

    Raises:
        MedmarkError: there is no such file, or it is damaged.
    """
    if not weights.is_file():
        raise MedmarkError(f"no such file: {weights}; give a safetensors file with --model")
    try:
        read_metadata(weights)
    except MedmarkError:  # not medmark's own; the training reads it and says what is wrong with it
        return {}
    found = load_segmenter(weights)
    return {"architecture": found.architecture, "size": found.size}
