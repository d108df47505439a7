"""Running mark_release on this machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import time
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
from medmark.components.dataset.phantom import TARGET_CLASS, make_phantoms
from medmark.components.dataset.release import Release, canonical_json
from medmark.components.errors import MedmarkError
from medmark.components.platform.resources import use_threads
from medmark.components.platform.tracking import Tracked, log_pipeline
from medmark.components.report.figures import classifier_curves, generator_curves, histograms, robustness_curves
from medmark.pipelines.local_output import StepOutput
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
        out: folder for ``release/`` (public), ``evidence/`` (private), ``report.html``, ``verdict.json``, MLflow's
            files and ``work/``, which holds what the steps pass on and lets an interrupted run go on.
        data: folder per class, CSV or release; phantoms when None.
        profile: ``smoke``, ``standard`` or ``full``.
        settings: parameters of the profile to replace, as text.
        ingest_options: keyword arguments of ingest.
        version: of the marked release.
        seed: of everything, the secret key of the mark too: who guesses it has the key. None draws one of 48 bits and
            keeps it in ``work/``, so that an interrupted run goes on with it, and in the evidence.
        debug: show all that the steps print.

    Returns:
        The content of ``verdict.json``.

    Raises:
        MedmarkError: ``out`` holds a finished run, or whatever a step refuses.
    """
    from kfp import local
    from medmark.pipelines.mark_release.pipeline import mark_release

    if profile not in PROFILES:
        raise MedmarkError(f"unknown profile: {profile!r}; use one of {', '.join(PROFILES)}")
    chosen = PROFILES[profile].with_settings(settings or {})
    out = Path(out).resolve()
    if out.exists() and (set(os.listdir(out)) - {"work"}):
        raise MedmarkError(f"not empty: {out}; choose a new folder with --out, or remove what is there")
    if data is None and not chosen.target_class:
        chosen = replace(chosen, target_class=TARGET_CLASS)
    work = out / "work"
    work.mkdir(parents=True, exist_ok=True)
    os.chmod(work, 0o700)  # generators and evidence pass through it
    if seed is None:
        seed = secret_seed(work / "seed")
    use_threads()
    if data is None:
        source = work / f"phantoms-{chosen.phantoms}-{seed}"
        if not source.exists():
            drawing = work / "drawing"
            shutil.rmtree(drawing, ignore_errors=True)
            make_phantoms(drawing, count=chosen.phantoms, seed=seed).rename(source)
    else:
        source = Path(data).resolve()
    arguments = pipeline_arguments(chosen, source, ingest_options or {}, version, seed)
    arguments["parameters"] = {
        "profile": profile,
        **asdict(chosen),
        "data": "phantoms" if data is None else source.name,
    }
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(work / "steps"), enable_caching=True)
    names = {task: spec.task_info.name for task, spec in mark_release.pipeline_spec.root.dag.tasks.items()}
    started = time.monotonic()
    with StepOutput(work / "steps.log", debug, names) as output, contextlib.redirect_stdout(output):
        warnings.filterwarnings("ignore", "Task .* have no effect in the current local runner")
        try:
            made = mark_release(**arguments)
        except RuntimeError as error:
            reason = output.reason or f"see the end of {work / 'steps.log'}, correct the cause"
            raise MedmarkError(f"step {output.step} failed: {reason}; run again, finished steps are kept") from error
    parts = {name: Path(artifact.path) for name, artifact in made.outputs.items()}
    verdict = json.loads((parts["check"] / "verdict.json").read_bytes())
    for name, artifact in (("verify", made.outputs["check"]), ("report", made.outputs["report"])):
        verdict["seconds"][name] = artifact.metadata["seconds"]
    verdict["seconds"]["total"] = round(time.monotonic() - started, 1)
    shutil.copytree(parts["release"], out / "release")
    (out / "evidence").mkdir(mode=0o700)
    shutil.copytree(parts["evidence"], out / "evidence", dirs_exist_ok=True)
    shutil.copyfile(parts["report"], out / "report.html")
    (out / "verdict.json").write_bytes(canonical_json(verdict))
    track_run(out, parts, verdict, arguments["parameters"])
    shutil.rmtree(work)
    return verdict


def secret_seed(path: Path) -> int:
    """The seed in a file, which is made with a new one if it is not there."""
    if not path.exists():
        partial = path.with_suffix(".partial")
        partial.write_text(str(secrets.randbits(SEED_BITS)))
        partial.replace(path)
    return int(path.read_text())


def pipeline_arguments(profile: Profile, source: Path, ingest_options: dict, version: str, seed: int) -> dict:
    """The arguments of the pipeline, but ``parameters``."""
    return {
        "source": str(source),
        "source_state": source_state(source, ingest_options.get("root")),
        "ingest_options": {"seed": seed} | {k: v for k, v in ingest_options.items() if v is not None},
        "target_class": profile.target_class,
        "surrogate_configs": profile.surrogate_configs(seed),
        "innocent_configs": profile.innocent_configs(seed),
        "victim_configs": profile.victim_configs(seed),
        "generator_config": profile.generator_config(0),
        "control_config": profile.generator_config(1),
        "version": version,
        "queries": profile.queries,
        "thresholds": asdict(THRESHOLDS),
        "seed": seed,
        "seeds": {"run": seed, "surrogates": seed + 100, "innocents": seed + 1000, "victims": seed + 5000},
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


def track_run(out: Path, parts: dict[str, Path], verdict: dict, parameters: dict) -> None:
    """Logs the run to MLflow, a nested run a step.

    The server may be shared: neither seeds, from which the key of the mark follows, nor marked images go there.
    """
    steps = []
    for name in ("clean", "surrogates", "innocents", "generator", "control", "release", "victims", "check"):
        title = {"clean": "ingest", "release": "poison", "control": "control_generator", "check": "verify"}.get(
            name, name
        )
        step = Tracked(title)
        if name in ("clean", "release"):
            release = Release(parts[name])
            source = parameters["data"] if name == "clean" else out / "release"
            step.dataset = {"name": release.name, "digest": release.digest, "source": source, "counts": release.counts}
        elif name in ("surrogates", "innocents", "victims"):
            models = json.loads((parts[name] / "models.json").read_bytes())["models"]
            step.figures["training.svg"] = classifier_curves({entry["name"]: entry["history"] for entry in models})
            for entry in models:
                step.metrics[f"{entry['name']}.test_accuracy"] = entry["test_accuracy"]
                step.parameters[f"{entry['name']}.architecture"] = entry["architecture"]
                for curve in ("loss", "val_loss", "val_accuracy"):
                    step.curves[f"{entry['name']}.{curve}"] = [(h["epoch"], h[curve]) for h in entry["history"]]
        elif name in ("generator", "control"):
            history = json.loads((parts[name] / "history.json").read_bytes())
            if history:  # none for a bare carrier
                step.figures["training.svg"] = generator_curves(history)
            for curve in set(history[0]) - {"step"} if history else ():
                step.curves[curve] = [(h["step"], h[curve]) for h in history]
        else:
            step.metrics = {k: v for k, v in verdict["malicious"].items() if isinstance(v, int | float)}
            target = verdict["dataset"]["target_class"]
            step.figures["answers.svg"] = histograms(pd.read_parquet(parts[name] / "scores.parquet"), target)
            step.figures["robustness.svg"] = robustness_curves(verdict["robustness"], target)
        step.metrics["seconds"] = verdict["seconds"][title]
        steps.append(step)
    metrics = {
        "wsr": verdict["malicious"]["wsr"],
        "delta_p": verdict["malicious"]["delta_p"],
        "innocent_accused": verdict["independent_models"]["accused"],
        "accuracy_marked": verdict["accuracy"]["marked"],
        "accuracy_benign": verdict["accuracy"]["benign"],
        "ssim": verdict["quality"]["ssim"],
        "marked_fraction": verdict["marked_fraction"],
    }
    release = Release(out / "release")
    dataset = {"name": release.name, "digest": release.digest, "source": out / "release", "counts": release.counts}
    parameters = {**parameters, "verdict": verdict["verdict"]}
    pipeline = Tracked("mark-release", parameters, metrics, dataset=dataset)
    log_pipeline(out, pipeline, steps)
