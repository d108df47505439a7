"""Running mark_release on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from medmark.components.dataset.phantom import TARGET_CLASS, make_phantoms
from medmark.components.dataset.release import canonical_json
from medmark.components.errors import MedmarkError
from medmark.components.platform.resources import use_threads
from medmark.components.report.mark_tracking import track_marking
from medmark.pipelines.local_run import WORK, hand_over, occupied, remove_work, run_locally
from medmark.pipelines.mark_release.profiles import PROFILES, THRESHOLDS, Profile

SEED_BITS = 48  # KFP carries numbers as doubles, exact to 53 bits


def run_mark_release(
    out: str | Path,
    *,
    data: str | None = None,
    profile: str = "standard",
    settings: dict[str, str] | None = None,
    ingest_options: dict | None = None,
    version: str = "1",
    seed: int | None = None,
    debug: bool = False,
) -> dict:
    """Marks a release, from raw images to the report.

    Args:
        out: folder for ``release/`` (public), ``evidence/`` (private, for audits), ``keep/`` (private, for updates),
            ``report.html``, ``verdict.json``, MLflow's files and ``work/``, which holds what the steps pass on and lets an
            interrupted run go on.
        data: folder per class, CSV or release; phantoms when None.
        profile: ``smoke``, ``standard`` or ``full``.
        settings: parameters of the profile to replace, as text.
        ingest_options: keyword arguments of ingest.
        version: of the marked release.
        seed: of everything, the secret key of the mark too: who guesses it has the key. None draws secrets, see
            :class:`Secrets`, which are kept in ``work/``, so that an interrupted run goes on with them, and in the evidence.
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
    out = Path(out).resolve()
    if occupied(out):
        raise MedmarkError(f"not empty: {out}; choose a new folder with --out, or remove what is there")
    if data is None and not chosen.target_class:
        chosen = replace(chosen, target_class=TARGET_CLASS)
    work = out / WORK
    work.mkdir(parents=True, exist_ok=True)
    os.chmod(work, 0o700)  # generators and evidence pass through it
    drawn = Secrets(seed, seed, seed, None) if seed is not None else Secrets.kept(work / "secrets.json")
    use_threads()
    if data is None:
        source = work / f"phantoms-{chosen.phantoms}-{drawn.seed}"
        if not source.exists():
            drawing = work / "drawing"
            shutil.rmtree(drawing, ignore_errors=True)
            make_phantoms(drawing, count=chosen.phantoms, seed=drawn.seed).rename(source)
    else:
        source = Path(data).resolve()
    arguments = pipeline_arguments(chosen, source, ingest_options or {}, version, drawn)
    arguments["parameters"] = {
        "profile": profile,
        **asdict(chosen),
        "data": "phantoms" if data is None else source.name,
    }
    started = time.monotonic()
    made = run_locally(mark_release, arguments, work, debug)
    parts = {name: Path(artifact.path) for name, artifact in made.outputs.items()}
    verdict = json.loads((parts["check"] / "verdict.json").read_bytes())
    for name, artifact in (("verify", made.outputs["check"]), ("report", made.outputs["report"])):
        verdict["seconds"][name] = artifact.metadata["seconds"]
    verdict["seconds"]["total"] = round(time.monotonic() - started, 1)
    hand_over(parts, out)
    shutil.copyfile(parts["report"], out / "report.html")
    (out / "verdict.json").write_bytes(canonical_json(verdict))
    track_marking(out, parts, verdict, arguments["parameters"])
    remove_work(out)
    return verdict


@dataclass(frozen=True)
class Secrets:
    """What a run draws at random, apart: the order of a release or a known patient's pseudonym must not give the mark away.

    Attributes:
        seed: of the mark, 48 bits.
        ingest_seed: of order and splits, which everybody sees; 48 bits.
        models_seed: of surrogates, innocent models and victims; 48 bits. A trained network tells the seed that it began with
            (benchmarks/results/seed_in_weights.json), and surrogates may go to a shared MLflow.
        patient_key: of the pseudonyms, 256 bits in hex; None: made from ``ingest_seed``.
    """

    seed: int
    ingest_seed: int
    models_seed: int
    patient_key: str | None

    @classmethod
    def kept(cls, path: Path) -> Secrets:
        """Those in a file, which is made with new ones if it is not there."""
        if not path.exists():
            new = cls(*(secrets.randbits(SEED_BITS) for _ in range(3)), secrets.token_hex(32))
            partial = path.with_suffix(".partial")
            partial.write_bytes(canonical_json(asdict(new)))
            partial.replace(path)
        return cls(**json.loads(path.read_bytes()))


def pipeline_arguments(
    profile: Profile, source: Path | str, ingest_options: dict, version: str, drawn: Secrets, state: str | None = None
) -> dict:
    """The arguments of the pipeline, but ``parameters``; ``state`` where the source is not on this machine."""
    seed, models = drawn.seed, drawn.models_seed
    given = {"seed": drawn.ingest_seed, "patient_key": drawn.patient_key, **ingest_options}
    return {
        "source": str(source),
        "source_state": state or source_state(source, ingest_options.get("root")),
        "ingest_options": {k: v for k, v in given.items() if v is not None},
        "target_class": profile.target_class,
        "surrogate_configs": profile.surrogate_configs(models),
        "innocent_configs": profile.innocent_configs(models),
        "victim_configs": profile.victim_configs(models),
        "generator_config": profile.generator_config(0),
        "control_config": profile.generator_config(1),
        "version": version,
        "queries": profile.queries,
        "thresholds": asdict(THRESHOLDS),
        "seed": seed,
        "seeds": {
            "run": seed,
            "ingest": drawn.ingest_seed,
            "surrogates": models + 100,
            "innocents": models + 1000,
            "victims": models + 5000,
        },
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
