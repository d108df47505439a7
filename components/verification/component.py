"""KFP interface of the verification room."""

from kfp import dsl
from medmark.components.platform.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def check_release_component(
    release: dsl.Input[dsl.Dataset],
    evidence: dsl.Input[dsl.Artifact],
    innocents: dsl.Input[dsl.Model],
    victims: dsl.Input[dsl.Model],
    clean: dsl.Input[dsl.Dataset],
    surrogates: dsl.Input[dsl.Model],
    maps: dsl.Input[dsl.Artifact],
    generator: dsl.Input[dsl.Model],
    control: dsl.Input[dsl.Model],
    thresholds: dict,
    seeds: dict,
    check: dsl.Output[dsl.Artifact],
    complete: dsl.Output[dsl.Artifact],
) -> str:
    """Runs the three scenarios, writes ``verdict.json`` and completes the evidence.

    Args:
        release: the marked release.
        evidence: its private evidence.
        innocents: models trained on the clean release.
        victims: models trained on the marked release.
        clean, surrogates, maps, generator, control: only their recorded times are read.
        thresholds: dictionary of ``Thresholds``.
        seeds: of the run.
        check: folder with ``verdict.json`` and ``scores.parquet``.
        complete: the evidence with innocent models' answers and thresholds; private.

    Returns:
        The verdict.
    """
    import time

    from medmark.components.platform.parameters import whole
    from medmark.components.verification.release_check import check_release
    from medmark.components.verification.verdict import Thresholds

    started = time.monotonic()
    steps = dict(ingest=clean, surrogates=surrogates, innocents=innocents, saliency=maps, generator=generator)
    steps |= dict(control_generator=control, poison=release, victims=victims)
    seconds = {name: artifact.metadata["seconds"] for name, artifact in steps.items()}
    inputs = (release.path, evidence.path, innocents.path, victims.path, check.path, complete.path)
    verdict = check_release(*inputs, thresholds=Thresholds(**whole(thresholds)), seeds=whole(seeds), seconds=seconds)
    check.metadata.update(seconds=time.monotonic() - started, verdict=verdict["verdict"])
    return verdict["verdict"]


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def audit_component(
    evidence: dsl.Input[dsl.Artifact],
    suspects: list,
    contract: dict,
    connection: dict,
    audit: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
) -> dict:
    """Questions suspect models and writes ``audit.json`` and its report.

    A bearer token is taken from the environment variable MEDMARK_SUSPECT_TOKEN of the step.

    Args:
        evidence: complete evidence of a release; private.
        suspects: targets as ``medmark audit`` takes them; ONNX files must lie where the step can reach them.
        contract: dictionary of ``Contract``, the same for all.
        connection: dictionary of ``Connection``.
        audit: folder with ``audit.json`` and the answers.
        report: one HTML file; private.

    Returns:
        Verdict of each suspect.
    """
    from medmark.components.platform.parameters import whole
    from medmark.components.report.audit_report import write_audit_report
    from medmark.components.verification.suspect_audit import audit_targets

    made = audit_targets(evidence.path, suspects, audit.path, contract=whole(contract), connection=whole(connection))
    write_audit_report(report.path, made)
    return {suspect["name"]: suspect["verdict"] for suspect in made["suspects"]}
