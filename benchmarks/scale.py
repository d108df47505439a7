"""What mark-release costs for each image: processor seconds and bytes of its steps, and which steps download what.

    python benchmarks/scale.py --work WORK [--counts 200,400,800]

Runs the steps on several numbers of kermany's x-rays (longest side 384 px) in one process and fits a line to each step's processor time, which other work on the
machine hardly changes. From these slopes and from the compiled pipeline it projects a run on as many images as CheXpert has.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from graphlib import TopologicalSorter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import yaml
from marking import machine
from medmark.components.dataset.ingest import ingest
from medmark.components.dataset.prepared import prepare
from medmark.components.generator.train import GeneratorConfig, train_generator
from medmark.components.poisoning.poison import poison
from medmark.components.profiles import PROFILES
from medmark.components.saliency.extract import extract
from medmark.components.surrogate.models import train_models
from medmark.components.surrogate.training import TrainConfig
from medmark.pipelines.compile import compile_pipeline, read_images
from medmark.pipelines.mark_release.pipeline import mark_release

RESULT = Path(__file__).parent / "results" / "scale.json"
PROFILE = PROFILES["standard"]
PROJECTED = 223_000  # images, as of CheXpert
NODES = (1, 2, 4, 8, 25)
KEPT = ("release", "prepared", "maps", "marked")
MODELS = {
    "train-surrogates": PROFILE.surrogates,
    "train-benign-models": PROFILE.benign_models,
    "train-marked-models": 2,
}


def measure(count: int, work: Path) -> dict[str, dict[str, float]]:
    """Processor seconds of each step on some x-rays, and the bytes of what the steps make."""
    seconds: dict[str, float] = {}

    def timed(what: str, step: Callable, *given, **options) -> None:
        started = time.process_time()
        step(*given, **options)
        seconds[what] = time.process_time() - started

    work.mkdir(parents=True)
    root = Path(os.environ["MEDMARK_DATA"]) / "cxr"
    table = pd.read_csv(root / "dev" / "manifest.csv", dtype=str).query("subset == 'kermany'")
    table.sample(count, random_state=0).to_csv(work / "manifest.csv", index=False)
    options = {
        "label_column": "binary",
        "patient_column": "group_id",
        "class_names": ["normal", "pneumonia"],
        "seed": 1,
    }
    timed("ingest", ingest, work / "manifest.csv", work / "release", name="kermany", root=root, **options)
    timed("prepare", prepare, work / "release", work / "prepared", size=PROFILE.size)
    for architecture in (PROFILE.architecture, PROFILE.other_architecture):
        config = TrainConfig(architecture, architecture=architecture, size=PROFILE.size, epochs=1)
        out = work / architecture
        timed(f"one epoch of {architecture}", train_models, work / "prepared", out, configs=[config], workers=1)
    panel = work / PROFILE.architecture
    timed("extract saliency", extract, work / "prepared", panel / f"{PROFILE.architecture}.safetensors", work / "maps")
    config = GeneratorConfig.from_dict(PROFILE.generator_config(0))
    for index, name in enumerate(("generator", "control")):
        own = replace(config, key_index=index, steps=0)
        given = [work / part for part in ("prepared", PROFILE.architecture, "maps", name)]
        timed("train generator", train_generator, *given, target_class="normal", config=own, seed=1)
    given = [work / part for part in ("release", "generator", "control", "maps", "marked", "evidence")]
    timed("poison", poison, *given, version="1", queries=PROFILE.queries, seed=1)
    sizes = {name: sum(p.stat().st_size for p in (work / name).rglob("*") if p.is_file()) for name in KEPT}
    return {"processor_seconds": seconds, "bytes": sizes}


def downloads() -> dict[str, int]:
    """How many pods of a run download each output, by the step and port that made it; read from the compiled pipeline."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "mark-release.yaml"
        compile_pipeline(mark_release, path, read_images(unpinned=True))
        spec = next(yaml.safe_load_all(path.read_text()))
    counts: Counter = Counter()

    def walk(component: dict, given: dict, times: int) -> dict:
        tasks, made = component["dag"]["tasks"], {}
        for name in TopologicalSorter({n: t.get("dependentTasks", []) for n, t in tasks.items()}).static_order():
            task = tasks[name]
            taken = {}
            for port, source in task.get("inputs", {}).get("artifacts", {}).items():
                of = source.get("taskOutputArtifact")
                taken[port] = (
                    made[of["producerTask"]][of["outputArtifactKey"]] if of else given[source["componentInputArtifact"]]
                )
            called = spec["components"][task["componentRef"]["name"]]
            if "dag" in called:
                each = times * MODELS[loops[-1]] if "parameterIterator" in task else times
                loops.append(name)
                made[name] = walk(called, taken, each)
                loops.pop()
            else:
                for origin in taken.values():
                    counts[origin] += times
                step = task["taskInfo"]["name"]
                made[name] = {
                    port: f"{step}: {port}" for port in called.get("outputDefinitions", {}).get("artifacts", {})
                }
        chosen = component["dag"].get("outputs", {}).get("artifacts", {})
        selected = {port: one["artifactSelectors"][0] for port, one in chosen.items()}
        return {port: made[one["producerSubtask"]][one["outputArtifactKey"]] for port, one in selected.items()}

    loops: list[str] = []
    walk(spec["root"], {}, 1)
    return dict(sorted(counts.items()))


def line(counts: list[int], values: list[float]) -> dict[str, float]:
    """Slope for each image and the rest of a fitted line."""
    slope, rest = np.polyfit(counts, values, 1)
    return {"for_each_image": float(slope), "fixed": float(rest)}


def projected(slopes: dict[str, dict[str, float]]) -> dict:
    """Processor hours of the steps of a run on CheXpert's number of images, and hours by number of nodes."""
    hours = {name: (s["for_each_image"] * PROJECTED + max(0.0, s["fixed"])) / 3600 for name, s in slopes.items()}
    small = hours[f"one epoch of {PROFILE.architecture}"] * PROFILE.epochs
    other = hours[f"one epoch of {PROFILE.other_architecture}"] * PROFILE.other_epochs
    alone = hours["ingest"] + 2 * hours["prepare"] + hours["extract saliency"]
    alone += 2 * hours["train generator"] + hours["poison"]
    models = [other] * 2 + [small] * (sum(MODELS.values()) - 2)  # one benign model is trained as each marked one is
    wall = {nodes: alone + longest(models, nodes) for nodes in NODES}
    return {
        "images": PROJECTED,
        "processor_hours": {**hours, "all steps but training": alone, "all training": sum(models)},
        "hours_by_nodes": wall,
    }


def longest(tasks: list[float], nodes: int) -> float:
    """When the last of some tasks ends, the longest begun first on whichever node is free."""
    busy = [0.0] * nodes
    for task in sorted(tasks, reverse=True):
        busy[busy.index(min(busy))] += task
    return max(busy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--counts", default="200,400,800")
    options = parser.parse_args()
    counts = [int(count) for count in options.counts.split(",")]
    runs = []
    for count in counts:
        work = options.work / str(count)
        shutil.rmtree(work, ignore_errors=True)
        runs.append(measure(count, work))
    slopes = {
        kind: {name: line(counts, [run[kind][name] for run in runs]) for name in runs[0][kind]} for kind in runs[0]
    }
    result = {
        "machine": machine(),
        "data": "kermany",
        "size": PROFILE.size,
        "counts": counts,
        "runs": runs,
        "slopes": slopes,
        "downloads": downloads(),
        "projected": projected(slopes["processor_seconds"]),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
