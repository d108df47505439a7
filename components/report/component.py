"""KFP interface of the report room."""

from kfp import dsl
from medmark.components.platform.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def report_component(
    clean: dsl.Input[dsl.Dataset],
    marked: dsl.Input[dsl.Dataset],
    evidence: dsl.Input[dsl.Artifact],
    maps: dsl.Input[dsl.Artifact],
    generator: dsl.Input[dsl.Model],
    innocents: dsl.Input[dsl.Model],
    victims: dsl.Input[dsl.Model],
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
        innocents, victims: for theirs.
        check: ``verdict.json`` and scores.
        parameters: of the run.
        report: one HTML file.
    """
    import time

    from medmark.components.platform.parameters import whole
    from medmark.components.report.release_report import report_release

    started = time.monotonic()
    models = [innocents.path, victims.path]
    inputs = (clean.path, marked.path, evidence.path, maps.path, generator.path, models, check.path)
    report_release(*inputs, report.path, parameters=whole(parameters))
    report.metadata.update(seconds=time.monotonic() - started)
