"""KFP interface of the verification room."""

from kfp import dsl
from medmark.components.base.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def check_release_component(
    release: dsl.Input[dsl.Dataset],
    evidence: dsl.Input[dsl.Artifact],
    benign_models: dsl.Input[dsl.Model],
    marked_models: dsl.Input[dsl.Model],
    clean: dsl.Input[dsl.Dataset],
    surrogates: dsl.Input[dsl.Model],
    maps: dsl.Input[dsl.Artifact],
    generator: dsl.Input[dsl.Model],
    control: dsl.Input[dsl.Model],
    thresholds: dict,
    secrets: dsl.Input[dsl.Artifact],
    check: dsl.Output[dsl.Artifact],
    complete: dsl.Output[dsl.Artifact],
) -> dict:
    """Runs the three scenarios, writes ``verdict.json`` and completes the evidence.

    Args:
        release: the marked release.
        evidence: its private evidence.
        benign_models: models trained on the clean release.
        marked_models: models trained on the marked release.
        clean, surrogates, maps, generator, control: only what their steps say of themselves is read.
        thresholds: dictionary of ``Thresholds``.
        secrets: of the run; they become part of the evidence.
        check: folder with ``verdict.json``, ``scores.parquet`` and ``record.json``.
        complete: the evidence with benign models' answers and thresholds; private.

    Returns:
        ``verdict``, ``release_digest`` and ``evidence_digest``.
    """
    from medmark.components.base.parameters import whole
    from medmark.components.evidence.secrets import read_secrets
    from medmark.components.lineage.events import artifact_digest
    from medmark.components.lineage.step import step
    from medmark.components.verification.release_check import check_release
    from medmark.components.verification.sealing import finish_evidence
    from medmark.components.verification.verdict import Thresholds

    steps = dict(ingest=clean, surrogates=surrogates, benign_models=benign_models, saliency=maps, generator=generator)
    steps |= dict(control_generator=control, poison=release, marked_models=marked_models)
    seconds = {name: artifact.metadata["seconds"] for name, artifact in steps.items()}
    inputs = {"marked": release, "evidence": evidence, "benign_models": benign_models, "marked_models": marked_models}
    with step("verify", inputs=inputs, outputs={"check": check}, parameters={"thresholds": whole(thresholds)}):
        paths = [artifact.path for artifact in (*inputs.values(), check)]
        verdict = check_release(*paths, thresholds=Thresholds(**whole(thresholds)), seconds=seconds)
    events = [artifact.metadata["lineage"] for artifact in (secrets, *steps.values(), check)]
    finish_evidence(
        release.path, evidence.path, check.path, complete.path, events=events, drawn=read_secrets(secrets.path)
    )
    checked = {name: verdict[name] for name in ("verdict", "release_digest")}
    check.metadata.update(checked)
    return {**checked, "evidence_digest": artifact_digest(complete.path)}


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def check_update_component(
    release: dsl.Input[dsl.Dataset],
    evidence: dsl.Input[dsl.Artifact],
    keep: dsl.Input[dsl.Artifact],
    change: dict,
    seed: int,
    drop: dsl.Input[dsl.Artifact],
    check: dsl.Output[dsl.Artifact],
    complete: dsl.Output[dsl.Artifact],
) -> dict:
    """Trains a model on a sample of the updated release and audits it.

    Args:
        release: the updated release.
        evidence: its private evidence.
        keep: what was kept with it.
        change: what the update changed.
        seed: of sample and model.
        drop: only what its step says of itself is read.
        check: folder with ``verdict.json`` and ``record.json``.
        complete: the evidence with the record of all steps; private.

    Returns:
        ``verdict`` (``unchanged`` if nothing changed), ``release_digest`` and ``evidence_digest``.
    """
    from medmark.components.base.parameters import whole
    from medmark.components.lineage.events import artifact_digest
    from medmark.components.lineage.step import step
    from medmark.components.verification.sealing import finish_evidence
    from medmark.components.verification.update_check import check_update

    inputs = {"marked": release, "evidence": evidence, "keep": keep}
    with step("check", inputs=inputs, outputs={"check": check}, seed=seed):
        paths = [artifact.path for artifact in (*inputs.values(), check)]
        verdict = check_update(*paths, change=whole(change), seed=seed)
    events = [artifact.metadata["lineage"] for artifact in (drop, release, check)]
    finish_evidence(release.path, evidence.path, check.path, complete.path, events=events)
    checked = {name: verdict[name] for name in ("verdict", "release_digest")}
    check.metadata.update(checked)
    return {**checked, "evidence_digest": artifact_digest(complete.path)}


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def audit_component(
    evidence: dsl.Input[dsl.Artifact],
    suspects: list,
    contract: dict,
    connection: dict,
    commitment: dict,
    audit: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
) -> dict:
    """Questions suspect models and writes ``audit.json`` and its report.

    A bearer token is taken from the environment variable MEDMARK_SUSPECT_TOKEN of the step.

    Args:
        evidence: complete evidence of a release; private.
        suspects: targets as ``medmark audit`` takes them; ONNX files lie where the step can reach them, here or ``s3://``.
        contract: dictionary of ``Contract``, the same for all.
        connection: dictionary of ``Connection``.
        commitment: texts of ``commitment`` (the JSON file), ``public_key`` (PEM) and, if its time was stamped, ``timestamp``
            (the .tsr file in base64) and ``timestamp_roots`` (PEM); empty: none is checked.
        audit: folder with ``audit.json`` and the answers.
        report: one HTML file; private.

    Returns:
        Verdict of each suspect.
    """
    import tempfile

    from medmark.components.base.parameters import whole
    from medmark.components.delivery.places import Places
    from medmark.components.report.audit_report import write_audit_report
    from medmark.components.suspects.contract import Contract
    from medmark.components.suspects.http import Connection
    from medmark.components.suspects.suspects import fetch_suspects
    from medmark.components.verification.audit import audit as ask
    from medmark.components.verification.audit import write_commitment_files

    with tempfile.TemporaryDirectory() as folder, Places() as places:
        made = ask(
            evidence.path,
            suspects,
            audit.path,
            contract=Contract.from_json(whole(contract)),
            connection=Connection.from_json(whole(connection)),
            files=fetch_suspects(places, suspects),
            **write_commitment_files(folder, commitment),
        )
    write_audit_report(report.path, made)
    return {suspect["name"]: suspect["verdict"] for suspect in made["suspects"]}
