"""Runs mark_release on this machine."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from medmark.components.base.digests import canonical_json
from medmark.components.base.errors import MedmarkError
from medmark.components.base.private_files import output
from medmark.components.base.threads import use_threads
from medmark.components.dataset.phantoms import TARGET_CLASS, make_phantoms
from medmark.components.profiles import Setting, chosen_profile, shown_parameters
from medmark.components.report.mark_tracking import track_marking
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

LAST_STEPS = {"verify": "check", "report": "report"}  # ended after the verdict was written: step to output


def run_mark_release(
    out: str | Path,
    *,
    data: str | None = None,
    profile: str = "standard",
    settings: Mapping[str, Setting] | None = None,
    ingest_options: dict | None = None,
    version: str = "1",
    seed: int | None = None,
    patients: str | Path | None = None,
    drawing: str | None = None,
    drawn_with: str | None = None,
    debug: bool = False,
) -> dict:
    """Marks a release, from raw images to the report.

    Args:
        out: folder to write, readable by its owner only. It gets ``release/`` and ``record.json`` (public), ``evidence/``
            (private, for audits), ``keep/`` (private, for updates), ``report.html``, ``verdict.json`` and MLflow's files.
            Meanwhile ``work/`` holds what the steps pass on, and lets an interrupted run go on.
        data: folder per class, CSV file or release; chest phantoms when None.
        profile: ``smoke``, ``standard`` or ``full``.
        settings: values of the profile to replace, by name.
        ingest_options: keyword arguments of :func:`medmark.components.dataset.ingest.ingest`.
        version: version of the marked release.
        seed: seed from which all secrets follow but the key of the pseudonyms. It gives away the key of the mark, so use it for
            figures that can be repeated and not for releases. None draws the secrets, see
            :class:`medmark.components.evidence.secrets.Secrets`; ``work/`` keeps them for an interrupted run that goes on, and
            the evidence keeps them for good.
        patients: private file with the key of the pseudonyms, made if missing. None draws the key and keeps it in ``keep/``.
            Phantoms have a public one.
        drawing: file of :func:`medmark.components.lineage.drawing.new_drawing`, a path or ``s3://bucket/name``; the key of the mark
            follows from it, and others can check that. None: the key is self-drawn.
        drawn_with: time stamp or beacon's value that completes the drawing, likewise.
        debug: show all that the steps print.

    Returns:
        The content of ``verdict.json``.

    Raises:
        MedmarkError: ``out`` holds a finished run or something else, the drawing is not complete or goes with a seed, or a step
            fails.
    """
    from medmark.pipelines.mark_release.pipeline import mark_release

    if seed is not None and (drawing or drawn_with):
        raise MedmarkError("a seed and a drawing: the key of the mark follows from one of them; leave out --seed")
    drawn = drawing_argument(drawing, drawn_with)
    overrides = dict(settings or {})
    chosen = chosen_profile(profile, overrides)
    options = ingest_options or {}
    if data is None:
        overrides["target_class"] = chosen.target_class or TARGET_CLASS
        options = {**options, "patient_key": NOBODY}
    use_threads()
    started = time.monotonic()
    with output(out, refuse_occupied) as folder:
        work = private_work(folder)
        source = Path(data).resolve() if data is not None else kept_phantoms(work, make_phantoms, count=chosen.phantoms)
        name = "phantoms" if data is None else options.get("name", "release")
        parameters = shown_parameters(profile, chosen_profile(profile, overrides), name)
        arguments = {
            "source": str(source),
            "profile": profile,
            "overrides": overrides,
            "models_per_step": 0,  # kfp.local runs no more than two steps at a time; one step uses all processors
            "ingest_options": {option: value for option, value in options.items() if value is not None},
            "name": name,
            "version": version,
            "source_state": source_state(source, options.get("root")),
            "seed": "" if seed is None else str(seed),
            "drawn_for": "the run in this folder",  # whose steps find each other there, and nobody else's
            "for_figures": seed is not None,
            "patients": patients_argument(patients),
            "drawing": drawn,
        }
        made = run_locally(mark_release, arguments, work, debug)
        parts = {name: Path(artifact.path) for name, artifact in made.outputs.items()}
        verdict = json.loads((parts["check"] / "verdict.json").read_bytes())
        seconds = {step: made.outputs[name].metadata["seconds"] for step, name in LAST_STEPS.items()}
        verdict["seconds"] |= {**seconds, "total": round(time.monotonic() - started, 1)}
        hand_over(parts, folder)
        shutil.copyfile(parts["report"], folder / "report.html")
        (folder / "verdict.json").write_bytes(canonical_json(verdict))
        log_run(parts, folder, partial(track_marking, folder, parts, verdict, parameters))
        remove_work(folder)
    return verdict
