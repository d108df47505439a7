"""KFP interface of the report room."""

from kfp import dsl
from medmark.components.base.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def report_component(
    clean: dsl.Input[dsl.Dataset],
    marked: dsl.Input[dsl.Dataset],
    evidence: dsl.Input[dsl.Artifact],
    maps: dsl.Input[dsl.Artifact],
    generator: dsl.Input[dsl.Model],
    benign_models: dsl.Input[dsl.Model],
    marked_models: dsl.Input[dsl.Model],
    check: dsl.Input[dsl.Artifact],
    parameters: dict,
    report: dsl.Output[dsl.HTML],
):
    """Writes the report; private, since it shows marked images.

    Args:
        clean, marked: the releases.
        evidence: private evidence.
        maps: saliency maps.
        generator: for its training history.
        benign_models, marked_models: for theirs.
        check: ``verdict.json`` and scores.
        parameters: of the run.
        report: one HTML file.
    """
    import time

    from medmark.components.base.parameters import whole
    from medmark.components.report.release_report import report_release

    started = time.monotonic()
    models = [benign_models.path, marked_models.path]
    inputs = (clean.path, marked.path, evidence.path, maps.path, generator.path, models, check.path)
    report_release(*inputs, report.path, parameters=whole(parameters))
    report.metadata.update(seconds=time.monotonic() - started)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def track_marking_component(
    clean: dsl.Input[dsl.Dataset],
    surrogates: dsl.Input[dsl.Model],
    benign_models: dsl.Input[dsl.Model],
    generator: dsl.Input[dsl.Model],
    control: dsl.Input[dsl.Model],
    release: dsl.Input[dsl.Dataset],
    evidence: dsl.Input[dsl.Artifact],
    marked_models: dsl.Input[dsl.Model],
    check: dsl.Input[dsl.Artifact],
    parameters: dict,
    unlogged: dsl.Output[dsl.Artifact],
):
    """Logs a run of mark_release to MLflow, if the step's environment names one; an MLflow that is away fails nothing.

    Args:
        clean, surrogates, benign_models, generator, control, release, marked_models: what the steps made.
        evidence: private; digests and names of the steps are read from it.
        check: ``verdict.json`` and scores.
        parameters: of the run.
        unlogged: what MLflow did not take, for ``medmark track sync``.
    """
    import json
    from pathlib import Path

    from medmark.components.base.parameters import whole
    from medmark.components.report.mark_tracking import track_marking
    from medmark.components.tracking.connection import is_named

    Path(unlogged.path).mkdir(parents=True)
    if not is_named():
        return
    made = dict(clean=clean, surrogates=surrogates, benign_models=benign_models, generator=generator, control=control)
    made |= dict(release=release, evidence=evidence, marked_models=marked_models, check=check)
    parts = {name: Path(artifact.path) for name, artifact in made.items()}
    verdict = json.loads((parts["check"] / "verdict.json").read_bytes())
    verdict["seconds"]["verify"] = check.metadata["seconds"]
    verdict["seconds"]["total"] = sum(verdict["seconds"].values())
    track_marking(Path(unlogged.path), parts, verdict, whole(parameters))


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def track_update_component(
    release: dsl.Input[dsl.Dataset],
    evidence: dsl.Input[dsl.Artifact],
    check: dsl.Input[dsl.Artifact],
    unlogged: dsl.Output[dsl.Artifact],
):
    """Logs a run of update_release to MLflow, if the step's environment names one and anything changed; an MLflow that is away
    fails nothing.

    Args:
        release, evidence, check: what the steps made.
        unlogged: what MLflow did not take, for ``medmark track sync``.
    """
    import json
    from pathlib import Path

    from medmark.components.report.update_tracking import track_update
    from medmark.components.tracking.connection import is_named

    Path(unlogged.path).mkdir(parents=True)
    parts = {"release": Path(release.path), "evidence": Path(evidence.path), "check": Path(check.path)}
    verdict = json.loads((parts["check"] / "verdict.json").read_bytes())
    if is_named() and verdict["change"]["changed"]:
        verdict["seconds"] = {"total": release.metadata["seconds"] + check.metadata["seconds"]}
        track_update(Path(unlogged.path), parts, verdict)
