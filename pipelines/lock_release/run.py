"""Runs lock_release on this machine."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from medmark.components.base.digests import canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.base.private_files import output
from medmark.components.base.threads import use_threads
from medmark.components.dataset.fundus_phantoms import CLASSES, make_fundus_phantoms
from medmark.components.lineage.files import read_small
from medmark.components.lineage.keys import locking_public
from medmark.components.locking.logo import read_logo, text_logos
from medmark.components.locking.profiles import LockProfile, chosen_lock_profile, locking_arguments
from medmark.components.locking.tracking import track_locking
from medmark.components.profiles import Setting, shown_parameters
from medmark.pipelines.local_run import (
    hand_over,
    kept_phantoms,
    log_run,
    private_work,
    refuse_occupied,
    remove_work,
    run_locally,
)
from medmark.pipelines.run_arguments import NOBODY, patients_argument, source_state


def run_lock_release(
    out: str | Path,
    *,
    recipients: Mapping[str, str],
    text: str = "NOT FOR ANALYSIS",
    logos: Sequence[str | Path] = (),
    data: str | None = None,
    profile: str = "standard",
    settings: Mapping[str, Setting] | None = None,
    ingest_options: dict | None = None,
    version: str = "1-locked",
    seed: int | None = None,
    patients: str | Path | None = None,
    debug: bool = False,
) -> dict:
    """Locks a release and checks the locks, from raw images to the report.

    Args:
        out: folder to write, readable by its owner only. It gets ``release/`` and ``record.json`` (public), ``evidence/`` (private, to
            unlock and to issue certificates), ``report.html``, ``verdict.json`` and MLflow's files.
        recipients: text of ``locking.pub`` by name, see :func:`read_recipients`: who may unlock, the owner first. Private keys are not
            needed.
        text: for logos on a dark and a light plate, 1 to 24 printable characters.
        logos: PNG files of one shape in place of the text.
        data: images of classes, a CSV, or a release; fundus phantoms with masks of their lesions when None.
        profile: ``smoke``, ``standard`` or ``full``.
        settings: values of the profile to replace, by name.
        ingest_options: keyword arguments of :func:`medmark.components.dataset.ingest.ingest`.
        version: of the locked release; public.
        seed, patients, debug: see :func:`medmark.pipelines.mark_release.run.run_mark_release`.

    Returns:
        The content of ``verdict.json``.

    Raises:
        MedmarkError: ``out`` holds a finished run or something else, an option cannot be used, or a step fails.
    """
    from medmark.pipelines.lock_release.pipeline import lock_release

    chosen = check_lock_options(profile, settings or {}, recipients=recipients, text=text, logos=logos)
    options = dict(ingest_options or {})
    if data is None:
        options |= {"patient_key": NOBODY, "class_names": list(CLASSES), "image_mode": "RGB", "lesions": True}
    use_threads()
    started = time.monotonic()
    with output(out, refuse_occupied) as folder:
        work = private_work(folder)
        source = (
            Path(data).resolve()
            if data is not None
            else kept_phantoms(work, make_fundus_phantoms, count=chosen.phantoms, size=chosen.size)
        )
        shown = "phantoms" if data is None else options.get("name", "release")
        parameters = shown_parameters(profile, chosen, shown)
        arguments = {
            "source": str(source),
            "recipients": dict(recipients),
            "profile": profile,
            "overrides": dict(settings or {}),
            "ingest_options": {option: value for option, value in options.items() if value is not None},
            "name": shown,
            "version": version,
            "text": text,
            "logos": [{"file": str(Path(logo).resolve()), "sha256": file_sha256(logo)} for logo in logos],
            "source_state": source_state(source, options.get("root")),
            "seed": "" if seed is None else str(seed),
            "drawn_for": "the run in this folder",  # whose steps find each other there, and nobody else's
            "for_figures": seed is not None,
            "patients": patients_argument(patients),
        }
        made = run_locally(lock_release, arguments, work, debug)
        parts = {name: Path(artifact.path) for name, artifact in made.outputs.items()}
        verdict = json.loads((parts["check"] / "verdict.json").read_bytes())
        verdict["seconds"] |= {"check_locks": made.outputs["check"].metadata["seconds"]}
        verdict["seconds"]["total"] = round(time.monotonic() - started, 1)
        hand_over(parts, folder)
        shutil.copyfile(parts["report"], folder / "report.html")
        (folder / "verdict.json").write_bytes(canonical_json(verdict))
        log_run(parts, folder, partial(track_locking, folder, parts, verdict, parameters))
        remove_work(folder)
    return verdict


def check_lock_options(
    profile: str,
    settings: Mapping[str, Setting],
    *,
    recipients: Mapping[str, str],
    text: str,
    logos: Sequence[str | Path],
) -> LockProfile:
    """Refuses what cannot be used before anything is started, and returns the profile with its settings.

    Args:
        profile, settings, recipients, text, logos: see :func:`run_lock_release`.

    Raises:
        MedmarkError: the first option that cannot be used.
    """
    chosen = chosen_lock_profile(profile, settings)
    locking_arguments(chosen, {})
    if not recipients:
        raise MedmarkError(
            "nobody could unlock this release; make a key with 'medmark keys new --locking --out keys', then give --recipient"
            " owner=keys/locking.pub"
        )
    for name, pem in recipients.items():
        locking_public(pem.encode(), f"key of {name}")
    for logo in logos:
        read_logo(logo)
    if not logos:
        text_logos(text)
    return chosen


def read_recipients(files: Mapping[str, str | Path]) -> dict[str, str]:
    """Reads the recipients' public keys.

    Args:
        files: ``locking.pub`` by name.

    Returns:
        Their text by name.

    Raises:
        MedmarkError: a file is missing or no public key for locking.
    """
    pems = {}
    for name, file in files.items():
        pem = read_small(file, "public key", "get the recipient's locking.pub")
        locking_public(pem, str(file))
        pems[name] = pem.decode()
    return pems
