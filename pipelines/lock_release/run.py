"""Runs lock_release on this machine."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from medmark.components.base.digests import canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.base.private_files import output
from medmark.components.base.threads import use_threads
from medmark.components.dataset.fundus_phantoms import CLASSES, make_fundus_phantoms
from medmark.components.evidence.secrets import REFERENCE
from medmark.components.lineage.files import read_small
from medmark.components.lineage.keys import locking_public
from medmark.components.locking.logo import read_logo, text_logos
from medmark.components.locking.profiles import LOCK_PROFILES, LockProfile
from medmark.components.locking.tracking import track_locking
from medmark.components.locking.verdict import LockThresholds
from medmark.components.profiles import Setting
from medmark.components.surrogate.networks import ARCHITECTURES
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

THRESHOLDS = LockThresholds()
TEXT = "NOT FOR ANALYSIS"


def run_lock_release(
    out: str | Path,
    *,
    recipients: Mapping[str, str | Path],
    text: str = TEXT,
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
        recipients: file of a ``locking.pub`` by name: who may unlock, the owner first. Private keys are not needed.
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

    if profile not in LOCK_PROFILES:
        raise MedmarkError(f"unknown profile: {profile!r}; use one of {', '.join(LOCK_PROFILES)}")
    chosen = LOCK_PROFILES[profile].with_settings(settings or {})
    options = dict(ingest_options or {})
    if data is None:
        options |= {"patient_key": NOBODY, "class_names": list(CLASSES), "image_mode": "RGB", "lesions": True}
    given = pipeline_arguments(chosen, options, recipients=recipients, text=text, logos=logos, version=version)
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
        parameters = {"profile": profile, **asdict(chosen), "data": shown, "text": text if not logos else "logos"}
        arguments = {
            **given,
            "source": str(source),
            "source_state": source_state(source, options.get("root")),
            "seed": "" if seed is None else str(seed),
            "for_figures": seed is not None,
            "patients": patients_argument(patients),
            "parameters": parameters,
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


def pipeline_arguments(
    profile: LockProfile,
    ingest_options: dict,
    *,
    recipients: Mapping[str, str | Path],
    text: str = TEXT,
    logos: Sequence[str | Path] = (),
    version: str = "1-locked",
) -> dict[str, Any]:
    """Returns the arguments of the pipeline without ``source``, ``source_state``, ``seed``, ``for_figures``, ``patients`` and ``parameters``.

    Args:
        profile: parameters of the run.
        ingest_options: keyword arguments of :func:`medmark.components.dataset.ingest.ingest`. If they give no seed or no key of
            the pseudonyms, the pipeline takes those of the run's secrets.
        recipients, text, logos, version: see :func:`run_lock_release`.

    Raises:
        MedmarkError: no recipient, or a key, text, logo, architecture or scale that cannot be used.
    """
    if not recipients:
        raise MedmarkError(
            "nobody could unlock this release; make a key with 'medmark keys new --locking --out keys', then give --recipient"
            " owner=keys/locking.pub"
        )
    pems = {}
    for name, file in recipients.items():
        pem = read_small(file, "public key", "get the recipient's locking.pub")
        locking_public(pem, str(file))
        pems[name] = pem.decode()
    for logo in logos:
        read_logo(logo)
    if not logos:
        text_logos(text)
    for wanted in (*profile.architectures.split(","), *profile.unseen_architectures.split(",")):
        if wanted not in ARCHITECTURES:
            raise MedmarkError(f"unknown architecture: {wanted!r}; use one of {', '.join(ARCHITECTURES)}")

    def seeded(config: dict) -> dict:
        return {**config, "seed": {REFERENCE: "models_seed", "plus": config["seed"]}}

    given = {"seed": {REFERENCE: "ingest_seed"}, "patient_key": {REFERENCE: "patient_key"}, **ingest_options}
    return {
        "ingest_options": {k: v for k, v in given.items() if v is not None},
        "configs": [seeded(config) for config in profile.classifiers(profile.architectures, "attacked", 100)],
        "unseen_configs": [
            seeded(config) for config in profile.classifiers(profile.unseen_architectures, "unseen", 1000)
        ],
        "segmenter_config": seeded(profile.segmenter),
        "version": version,
        "text": text,
        "logos": [{"file": str(Path(logo).resolve()), "sha256": file_sha256(logo)} for logo in logos],
        "search": json.loads(canonical_json(asdict(profile.search))),  # lists: pipelines know no tuples
        "recipients": pems,
        "removal_steps": profile.removal_steps,
        "thresholds": asdict(THRESHOLDS),
    }
