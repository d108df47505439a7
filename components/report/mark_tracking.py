"""Log a run of mark_release to MLflow."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from medmark.components.dataset.release import Release
from medmark.components.generator.marker import Marker
from medmark.components.lineage.events import artifact_digest, read_record, read_steps
from medmark.components.report.figures import classifier_curves, generator_curves, histograms, jpeg_and_resize_curves
from medmark.components.surrogate.models import load_models
from medmark.components.tracking.registry import Model, model_name
from medmark.components.tracking.runs import Tracked, log_pipeline, run_tags

# output of the pipeline: name of its MLflow run, name of its step
STEPS = {
    "clean": ("ingest", "ingest"),
    "surrogates": ("surrogates", "train classifiers"),
    "benign_models": ("benign_models", "train classifiers"),
    "generator": ("generator", "train generator"),
    "control": ("control_generator", "train generator"),
    "release": ("poison", "poison"),
    "marked_models": ("marked_models", "train classifiers"),
    "check": ("verify", "verify"),
}
APART = 1 << 20  # more than the steps' seeds differ from the run's where they follow from it
SEED = {"medmark.seed": "kept in the evidence"}  # the key of the mark follows from the seed
BARE = "not registered: no step of training; its weights are what the secret seed drew, or zeros"
FROM_SEED = "its weights tell the seed that they began with, from which the mark's key follows"
CARRIER = "its weights tell the seed that they began with, and its answers the carrier that it was trained on"


def track_marking(out: Path, parts: dict[str, Path], verdict: dict, parameters: dict, *, kfp_run: str = "") -> None:
    """Logs the run to MLflow, with a nested run for each step.

    The server may be shared: neither seeds, from which the key of the mark follows, nor marked images go there, nor paths of
    this machine. Digests come from the public record, where what could be guessed is an HMAC.

    Surrogates are registered as ``<release>-<surrogate>``, the trained generator's U-Net as ``<release>-generator``; on a
    server only surrogates whose seeds do not follow from the mark's. The U-Net's graph holds neither key nor selection, but
    its weights began with the mark's seed (correlation 0.99 in the first layer after 150 steps), and how strong its answer
    to a wave is depends on how near the wave's direction is to the key's (correlation -0.72 over 400 keys, benchmarks/results/seed_in_weights.json).

    Args:
        out: gets MLflow's files, or what MLflow does not take.
        parts: folder of each of the pipeline's outputs; of ``record`` the file.
        verdict: content of ``verdict.json``, with the seconds of all steps.
        parameters: of the run, without seeds.
        kfp_run: see :func:`medmark.components.tracking.runs.run_tags`.
    """
    release = Release(parts["release"])
    events = read_steps(parts["evidence"])["events"]
    public = read_record(parts["record"])["steps"]
    steps = []
    for name, (title, event) in STEPS.items():
        step = Tracked(title, tags=step_tags(event, parts[name], events, public) | SEED)
        if name in ("clean", "release"):
            step.dataset = dataset_of(Release(parts[name]), parameters["data"] if name == "clean" else "release")
        elif name in ("surrogates", "benign_models", "marked_models"):
            add_training(step, parts[name])
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
            step.figures["robustness.svg"] = jpeg_and_resize_curves(verdict["robustness"], target)
        if name == "surrogates":
            step.models = surrogate_models(parts[name], release, Marker.load(parts["generator"]).seed)
        elif name == "generator" and history:
            step.models = [generator_model(parts[name], release)]
        elif name == "generator":
            step.tags["medmark.models"] = BARE
        step.metrics["seconds"] = verdict["seconds"][title]
        steps.append(step)
    metrics = {
        "wsr": verdict["malicious"]["wsr"],
        "delta_p": verdict["malicious"]["delta_p"],
        "benign_accused": verdict["independent_models"]["accused"],
        "accuracy_marked": verdict["accuracy"]["marked"],
        "accuracy_benign": verdict["accuracy"]["benign"],
        "ssim": verdict["quality"]["ssim"],
        "marked_fraction": verdict["marked_fraction"],
        "seconds": verdict["seconds"]["total"],
    }
    pipeline = Tracked(
        "mark-release", {**parameters, "verdict": verdict["verdict"]}, metrics, tags=run_tags(kfp_run) | SEED
    )
    pipeline.dataset = dataset_of(release, "release")
    log_pipeline(out, pipeline, steps)


def dataset_of(release: Release, source: str) -> dict:
    """Describes a release as an input of a run."""
    return {"name": release.name, "digest": release.digest, "source": source, "counts": release.counts}


def add_training(step: Tracked, folder: Path) -> None:
    """Adds curves and accuracies of a folder of classifiers."""
    models = json.loads((folder / "models.json").read_bytes())["models"]
    step.figures["training.svg"] = classifier_curves({entry["name"]: entry["history"] for entry in models})
    for entry in models:
        step.metrics[f"{entry['name']}.test_accuracy"] = entry["test_accuracy"]
        step.parameters[f"{entry['name']}.architecture"] = entry["architecture"]
        for curve in ("loss", "val_loss", "val_accuracy"):
            step.curves[f"{entry['name']}.{curve}"] = [(h["epoch"], h[curve]) for h in entry["history"]]


def step_tags(name: str, made: Path, events: list[dict], public: list[dict]) -> dict[str, str]:
    """Returns the tags of one step: digest of each input and output, code version and image.

    Args:
        name: of the step; several may have it.
        made: one of its outputs, which tells them apart.
        events: of all steps, private.
        public: the same steps as the public record shows them.
    """
    found = [(event, shown) for event, shown in zip(events, public, strict=True) if shown["name"] == name]
    if len(found) > 1:
        digest = artifact_digest(made)
        found = [
            (event, shown)
            for event, shown in found
            if digest in [output["facets"]["version"]["datasetVersion"] for output in event["outputs"]]
        ]
    if not found:  # tracking fails no pipeline
        return {"medmark.output": "not among the steps of the record"}
    step = found[0][1]
    return {
        **{f"medmark.input.{port}": digest_text(digest) for port, digest in step["inputs"].items()},
        **{f"medmark.output.{port}": digest_text(digest) for port, digest in step["outputs"].items()},
        "medmark.code_version": step["code_version"],
        "medmark.image": step["image"],
    }


def digest_text(digest: dict[str, str]) -> str:
    """Writes a digest as ``sha256:...`` or ``hmac-sha256:...``."""
    ((kind, value),) = digest.items()
    return f"{kind}:{value}"


def surrogate_models(folder: Path, release: Release, run_seed: int) -> list[Model]:
    """Lists the surrogates to register: grey images in [0, 1] in, logits out."""
    return [
        Model(
            model_name(release.name, entry["name"]),
            classifier,
            (1, classifier.size, classifier.size),
            "image",
            "logits",
            release.digest,
            private=FROM_SEED if abs(entry["seed"] - run_seed) < APART else None,
            stated={"class_names": release.class_names, "architecture": entry["architecture"]},
        )
        for entry, classifier in load_models(folder)
    ]


def generator_model(folder: Path, release: Release) -> Model:
    """Returns the U-Net alone: image, saliency, carrier and role in, each a channel; the correction before its tanh out."""
    marker = Marker.load(folder)
    side = marker.shape.size // 2
    name = model_name(release.name, "generator")
    return Model(name, marker.network, (4, side, side), "conditions", "correction", release.digest, private=CARRIER)
