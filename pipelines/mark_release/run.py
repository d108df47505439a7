"""Running mark_release on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path

from medmark.components.base.digests import canonical_json
from medmark.components.base.errors import MedmarkError
from medmark.components.base.private_files import output
from medmark.components.base.threads import use_threads
from medmark.components.dataset.phantoms import TARGET_CLASS, make_phantoms
from medmark.components.dataset.pseudonyms import kept_patient_key
from medmark.components.evidence.secrets import REFERENCE
from medmark.components.profiles import PROFILES, THRESHOLDS, Profile
from medmark.components.report.mark_tracking import track_marking
from medmark.pipelines.local_run import hand_over, private_work, refuse_occupied, remove_work, run_locally

NOBODY = "medmark-phantom"  # key of the phantoms' pseudonyms, no secret


def run_mark_release(
    out: str | Path,
    *,
    data: str | None = None,
    profile: str = "standard",
    settings: dict[str, str] | None = None,
    ingest_options: dict | None = None,
    version: str = "1",
    seed: int | None = None,
    patients: str | Path | None = None,
    debug: bool = False,
) -> dict:
    """Marks a release, from raw images to the report.

    Args:
        out: folder for ``release/`` (public), ``evidence/`` (private, for audits), ``keep/`` (private, for updates),
            ``report.html``, ``verdict.json``, MLflow's files and ``work/``, which holds what the steps pass on and lets an
            interrupted run go on. Readable by its owner only.
        data: folder per class, CSV or release; phantoms when None.
        profile: ``smoke``, ``standard`` or ``full``.
        settings: parameters of the profile to replace, as text.
        ingest_options: keyword arguments of ingest.
        version: of the marked release.
        seed: of everything but the key of the pseudonyms, the secret key of the mark too: who guesses it has that key. None
            draws secrets, see :class:`medmark.components.evidence.secrets.Secrets`, which are kept in ``work/``, so that an
            interrupted run goes on with them, and in the evidence.
        patients: private file with the key of the pseudonyms, made if missing; None: drawn, and kept in ``keep/``. Phantoms,
            who are nobody, have a public one.
        debug: show all that the steps print.

    Returns:
        The content of ``verdict.json``.

    Raises:
        MedmarkError: ``out`` holds a finished run, or whatever a step refuses.
    """
    from medmark.pipelines.mark_release.pipeline import mark_release

    if profile not in PROFILES:
        raise MedmarkError(f"unknown profile: {profile!r}; use one of {', '.join(PROFILES)}")
    chosen = PROFILES[profile].with_settings(settings or {})
    options = ingest_options or {}
    if data is None:
        chosen = replace(chosen, target_class=chosen.target_class or TARGET_CLASS)
        options = {**options, "patient_key": NOBODY}
    use_threads()
    started = time.monotonic()
    with output(out, refuse_occupied) as folder:
        work = private_work(folder)
        source = Path(data).resolve() if data is not None else _phantoms(work, chosen.phantoms)
        arguments = pipeline_arguments(chosen, source, options, version)
        arguments |= {"source_state": source_state(source, options.get("root"))}
        arguments |= {"seed": "" if seed is None else str(seed), "patients": patients_argument(patients)}
        arguments["parameters"] = {
            "profile": profile,
            **asdict(chosen),
            "data": "phantoms" if data is None else options.get("name", "release"),
        }
        made = run_locally(mark_release, arguments, work, debug)
        parts = {name: Path(artifact.path) for name, artifact in made.outputs.items()}
        verdict = json.loads((parts["check"] / "verdict.json").read_bytes())
        for name, artifact in (("verify", made.outputs["check"]), ("report", made.outputs["report"])):
            verdict["seconds"][name] = artifact.metadata["seconds"]
        verdict["seconds"]["total"] = round(time.monotonic() - started, 1)
        hand_over(parts, folder)
        shutil.copyfile(parts["report"], folder / "report.html")
        (folder / "verdict.json").write_bytes(canonical_json(verdict))
        track_marking(folder, parts, verdict, arguments["parameters"])
        remove_work(folder)
    return verdict


def _phantoms(work: Path, count: int) -> Path:
    """The same phantoms for every run: drawn from its seed they would let anybody try seeds."""
    source, drawing = work / f"phantoms-{count}", work / "drawing"
    if not source.exists():
        shutil.rmtree(drawing, ignore_errors=True)
        make_phantoms(drawing, count=count, seed=0).rename(source)
    return source


def patients_argument(file: str | Path | None) -> dict:
    """How the pipeline gets the key of the pseudonyms: the name of its file, and another text whenever that changes, so that
    the cache notices. The file is made if it is missing.

    Raises:
        MedmarkError: it holds no key.
    """
    if file is None:
        return {}
    kept_patient_key(file)
    status = Path(file).stat()
    return {"file": str(Path(file).resolve()), "state": f"{status.st_size}:{status.st_mtime_ns}"}


def pipeline_arguments(profile: Profile, source: Path | str, ingest_options: dict, version: str) -> dict:
    """The arguments of the pipeline, but ``source_state``, ``seed``, ``patients`` and ``parameters``.

    Args:
        profile: of the run.
        source: raw images, as the ingest step can reach them.
        ingest_options: keyword arguments of ingest; without seed and key of the pseudonyms the run's secrets are taken.
        version: of the marked release.
    """

    def secret(name: str, plus: int = 0) -> dict:
        return {REFERENCE: name, "plus": plus} if plus else {REFERENCE: name}

    def configs(made: list[dict]) -> list[dict]:
        return [{**config, "seed": secret("models_seed", config["seed"])} for config in made]

    drawn = {"seed": secret("ingest_seed"), "patient_key": secret("patient_key")}
    given = {**drawn, "target_class": profile.target_class, **ingest_options}
    return {
        "source": str(source),
        "ingest_options": {k: v for k, v in given.items() if v is not None},
        "target_class": profile.target_class,
        "surrogate_configs": configs(profile.surrogate_configs(0)),
        "benign_configs": configs(profile.benign_configs(0)),
        "marked_configs": configs(profile.marked_configs(0)),
        "generator_config": profile.generator_config(0),
        "control_config": profile.generator_config(1),
        "version": version,
        "queries": profile.queries,
        "thresholds": asdict(THRESHOLDS),
    }


def source_state(source: Path, root: str | None) -> str:
    """SHA-256 of names, sizes and times of a source's files: another one as soon as a file changes.

    Args:
        source: folder or CSV.
        root: folder that a CSV's paths start from; the CSV's own when None.

    Raises:
        MedmarkError: there is no such source.
    """
    folder = source if source.is_dir() else Path(root or source.parent)
    if not source.exists() or not folder.is_dir():
        raise MedmarkError(f"no such folder or file: {source if folder.is_dir() else folder}; correct --data or --root")
    lines = []
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            path = Path(parent, file)
            status = path.lstat()
            lines.append(f"{path.relative_to(folder)}:{status.st_size}:{status.st_mtime_ns}")
    if not source.is_dir():
        lines.append(f"{source.stat().st_size}:{source.stat().st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()
