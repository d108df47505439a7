"""Log a run of mark_segmenter to MLflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medmark.components.dataset.release import Release
from medmark.components.evidence.marked_model import read_marked_model
from medmark.components.report.mark_tracking import dataset_of
from medmark.components.segmentation.evidence import read_segmenter_evidence
from medmark.components.segmentation.networks import Probabilities, load_segmenter
from medmark.components.segmentation.summary import metrics
from medmark.components.tracking.registry import Model, model_name
from medmark.components.tracking.runs import Tracked, log_pipeline, run_tags


def track_segmenter(
    out: Path, parts: dict[str, Path], verdict: dict[str, Any], parameters: dict[str, Any], *, kfp_run: str = ""
) -> None:
    """Logs the run to MLflow, with a nested run for each trained model, and registers the marked segmenter.

    The server may be shared: neither the key, the trigger, the payload nor images go there. The registered model answers with
    probabilities and is what goes out anyway.

    Args:
        out: gets MLflow's files, or what MLflow does not take.
        parts: ``release``, ``model``, ``unmarked`` and ``evidence``: folders.
        verdict: content of ``verdict.json``.
        parameters: of the run, without seeds.
        kfp_run: see :func:`medmark.components.tracking.runs.run_tags`.
    """
    release, marked = Release(parts["release"]), read_marked_model(parts["model"])
    model, evidence = load_segmenter(marked.weights), read_segmenter_evidence(parts["evidence"])
    unmarked = json.loads((parts["unmarked"] / "models.json").read_bytes())["models"]
    steps = [_training("marked", marked.stated["architecture"], evidence["history"], evidence["seconds"])]
    steps += [_training(m["name"], m["architecture"], m["history"], m["seconds"]) for m in unmarked]
    steps[0].tags = {"medmark.model_digest": marked.digest}
    steps[0].models = [
        Model(
            model_name(marked.name, "segmenter"),
            Probabilities(model),
            (model.channels, model.size, model.size),
            "image",
            "probabilities",
            release.digest,
            marked.digest,
            stated={"class_names": release.class_names, "model_digest": marked.digest},
        )
    ]
    tags = run_tags(kfp_run)
    hidden = ("trigger", "text")
    shown = {name: value for name, value in parameters.items() if name not in hidden}
    pipeline = Tracked("mark-segmenter", {**shown, "verdict": verdict["verdict"]}, dict(metrics(verdict)), tags=tags)
    pipeline.metrics["seconds"] = sum(seconds for name, seconds in verdict["seconds"].items() if name != "total")
    pipeline.dataset = dataset_of(release, parameters["data"])
    log_pipeline(out, pipeline, steps)


def _training(name: str, architecture: str, history: list[dict[str, float]], seconds: float) -> Tracked:
    step = Tracked(name, {"architecture": architecture}, {"seconds": seconds})
    for curve in set(history[0]) - {"step"} if history else ():
        step.curves[curve] = [(int(h["step"]), h[curve]) for h in history]
    return step
