"""Compiled pipelines: what a cluster takes."""

from __future__ import annotations

from pathlib import Path


def compile_all(out: str | Path) -> list[Path]:
    """Writes the IR YAML of every pipeline as ``<name>.yaml``.

    Args:
        out: folder; made if absent.

    Returns:
        The files.
    """
    from kfp import compiler
    from medmark.pipelines.audit_lineage.pipeline import audit_lineage
    from medmark.pipelines.audit_suspect.pipeline import audit_suspect
    from medmark.pipelines.compare_methods.pipeline import compare_methods
    from medmark.pipelines.mark_release.pipeline import mark_release
    from medmark.pipelines.stress_release.pipeline import stress_release
    from medmark.pipelines.update_release.pipeline import update_release

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for pipeline in (audit_lineage, audit_suspect, compare_methods, mark_release, stress_release, update_release):
        path = out / f"{pipeline.name}.yaml"
        compiler.Compiler().compile(pipeline, str(path))
        paths.append(path)
    return paths
