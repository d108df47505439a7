"""KFP components of the report room: write the report, and log runs to MLflow."""

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
    summary: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Writes the report of a marked release; private, because it shows marked images. The run's page gets the verdict and its numbers.

    Args:
        clean: the clean release.
        marked: the marked release.
        evidence: its evidence; private.
        maps: saliency maps.
        generator: generator of the mark, for its training history.
        benign_models: models trained on the clean release, for their training history.
        marked_models: models trained on the marked release, for theirs.
        check: verdict and scores, from ``check_release_component``.
        parameters: parameters of the run, to be shown.
        report: HTML file that opens without a network; private.
        summary: the verdict, its proofs, and what speaks against the mark; shows no image.
        metrics: the numbers by which runs are compared; ``works`` is 1 if the mark works, else 0.
    """
    import json
    import time
    from pathlib import Path

    from medmark.components.base.parameters import whole
    from medmark.components.report import summary as page
    from medmark.components.report.release_report import report_release

    started = time.monotonic()
    models = [benign_models.path, marked_models.path]
    inputs = (clean.path, marked.path, evidence.path, maps.path, generator.path, models, check.path)
    report_release(*inputs, report.path, parameters=whole(parameters))
    report.metadata.update(seconds=time.monotonic() - started)
    verdict = json.loads((Path(check.path) / "verdict.json").read_bytes())
    taken = [*verdict["seconds"].values(), check.metadata["seconds"], report.metadata["seconds"]]
    verdict["seconds"]["total"] = sum(taken)
    Path(summary.path).write_text(page.summary(verdict), encoding="utf-8")
    for name, value in page.metrics(verdict).items():
        metrics.log_metric(name, value)


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
    record: dsl.Input[dsl.Artifact],
    parameters: dict,
    kfp_run: str,
    unlogged: dsl.Output[dsl.Artifact],
) -> None:
    """Logs a run of mark_release to the MLflow server that the step's environment names, if it names one.

    A server that does not answer fails nothing: what it did not take becomes an output.

    Args:
        clean: the clean release, or its manifest, from ``prepare_component``, as ``release``: no image is read.
        surrogates: models that the generator was trained against.
        benign_models: models trained on the clean release.
        generator: generator of the mark; private.
        control: generator of the other mark; private.
        release: the marked release.
        evidence: its complete evidence, from ``check_release_component``; private. Digests and names of the steps are read
            from it.
        marked_models: models trained on the marked release.
        check: verdict and scores, from ``check_release_component``.
        record: how the release was made, from ``check_release_component``.
        parameters: parameters of the run, without seeds.
        kfp_run: id of the run, which becomes the tag ``medmark.kfp_run``; no tag when empty.
        unlogged: folder with what MLflow did not take, for ``medmark track sync``.
    """
    import json
    from pathlib import Path

    from medmark.components.base.parameters import whole
    from medmark.components.report.mark_tracking import track_marking
    from medmark.components.tracking.connection import is_named, take_secret

    take_secret()
    Path(unlogged.path).mkdir(parents=True)
    if not is_named():
        return
    made = dict(clean=clean, surrogates=surrogates, benign_models=benign_models, generator=generator, control=control)
    made |= dict(release=release, evidence=evidence, marked_models=marked_models, check=check, record=record)
    parts = {name: Path(artifact.path) for name, artifact in made.items()}
    verdict = json.loads((parts["check"] / "verdict.json").read_bytes())
    verdict["seconds"]["verify"] = check.metadata["seconds"]
    verdict["seconds"]["total"] = sum(verdict["seconds"].values())
    track_marking(Path(unlogged.path), parts, verdict, whole(parameters), kfp_run=kfp_run)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def track_update_component(
    release: dsl.Input[dsl.Dataset],
    evidence: dsl.Input[dsl.Artifact],
    check: dsl.Input[dsl.Artifact],
    record: dsl.Input[dsl.Artifact],
    kfp_run: str,
    unlogged: dsl.Output[dsl.Artifact],
) -> None:
    """Logs a run of update_release to the MLflow server that the step's environment names, if it names one.

    Does nothing if the drop changed nothing. A server that does not answer fails nothing: what it did not take becomes an
    output.

    Args:
        release: the updated release, or its manifest, from ``update_component``.
        evidence: its complete evidence, from ``check_update_component``; private.
        check: verdict, from ``check_update_component``.
        record: how the release was made, from ``check_update_component``.
        kfp_run: id of the run, which becomes the tag ``medmark.kfp_run``; no tag when empty.
        unlogged: folder with what MLflow did not take, for ``medmark track sync``.
    """
    import json
    from pathlib import Path

    from medmark.components.report.update_tracking import track_update
    from medmark.components.tracking.connection import is_named, take_secret

    take_secret()
    Path(unlogged.path).mkdir(parents=True)
    made = {"release": release, "evidence": evidence, "check": check, "record": record}
    parts = {name: Path(artifact.path) for name, artifact in made.items()}
    verdict = json.loads((parts["check"] / "verdict.json").read_bytes())
    if is_named() and verdict["change"]["changed"]:
        verdict["seconds"] = {"total": release.metadata["seconds"] + check.metadata["seconds"]}
        track_update(Path(unlogged.path), parts, verdict, kfp_run=kfp_run)
