"""Compiles pipelines to IR YAML, which a Kubeflow cluster runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from medmark.components.base.image import IMAGE

if TYPE_CHECKING:
    from kfp.dsl.graph_component import GraphComponent


def compile_pipeline(pipeline: GraphComponent, path: str | Path) -> None:
    """Writes the IR YAML of one pipeline, with caching switched off in every step, and each step told which image it runs in.

    A cluster's cache knows an input artifact by its name and not by its content, so it would give a run the verdict or the
    signature of another one. ``kfp.local`` knows artifacts by their place, and lets a run on one machine go on where it stopped.

    Args:
        pipeline: a function decorated with ``dsl.pipeline``.
        path: file to write.
    """
    from kfp import compiler

    compiler.Compiler().compile(pipeline, str(path))
    documents = list(yaml.safe_load_all(Path(path).read_text()))
    spec = documents[0]
    for component in (spec["root"], *spec["components"].values()):
        for task in component.get("dag", {}).get("tasks", {}).values():
            task["cachingOptions"] = {}
    for executor in spec["deploymentSpec"]["executors"].values():
        container = executor.get("container", {})
        if container.get("image") == IMAGE:  # a pod does not know its image, and its lineage would name the default
            container["env"] = [*container.get("env", []), {"name": "MEDMARK_IMAGE", "value": IMAGE}]
    Path(path).write_text(yaml.safe_dump_all(documents))


def compile_all(out: str | Path) -> list[Path]:
    """Writes the IR YAML of every pipeline of medmark as ``<name>.yaml``.

    Args:
        out: folder to write; made if missing.

    Returns:
        The files that were written.
    """
    from medmark.pipelines.audit_lineage.pipeline import audit_lineage
    from medmark.pipelines.audit_segmenter.pipeline import audit_segmenter
    from medmark.pipelines.audit_suspect.pipeline import audit_suspect
    from medmark.pipelines.compare_methods.pipeline import compare_methods
    from medmark.pipelines.mark_release.pipeline import mark_release
    from medmark.pipelines.mark_segmenter.pipeline import mark_segmenter
    from medmark.pipelines.stress_release.pipeline import stress_release
    from medmark.pipelines.update_release.pipeline import update_release

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for pipeline in (
        *(audit_lineage, audit_segmenter, audit_suspect, compare_methods),
        *(mark_release, mark_segmenter, stress_release, update_release),
    ):
        path = out / f"{pipeline.name}.yaml"
        compile_pipeline(pipeline, path)
        paths.append(path)
    return paths
