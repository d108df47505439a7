"""KFP components of the verification room: check a release before it goes out, with models of medmark or of yours, check an updated one,
and audit suspects."""

from typing import List  # noqa: UP035  KFP reads this one

from kfp import dsl
from medmark.components.base.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def check_release_component(
    release: dsl.Input[dsl.Dataset],
    evidence: dsl.Input[dsl.Artifact],
    benign_models: dsl.Input[dsl.Model],
    marked_models: dsl.Input[dsl.Model],
    thresholds: dict,
    secrets: dsl.Input[dsl.Artifact],
    check: dsl.Output[dsl.Artifact],
    complete: dsl.Output[dsl.Artifact],
    record: dsl.Output[dsl.Artifact],
) -> dict:
    """Proves that the mark works and accuses no benign model, and completes the evidence.

    Args:
        release: the marked release, from ``poison_component``, or its manifest, from ``prepare_component``: no image is read.
        evidence: its evidence, from ``poison_component``; private.
        benign_models: models trained on the clean release, from ``train_classifiers_component``.
        marked_models: models trained on the marked release, from ``train_classifiers_component``.
        thresholds: dictionary with the fields of ``medmark.components.verification.verdict.Thresholds``; fix them before the
            run.
        secrets: the run's secrets, from ``draw_secrets_component``; they become part of the evidence.
        check: folder with ``verdict.json`` and, private, ``scores.parquet``.
        complete: the evidence with the answers of the benign models, the thresholds and the list of all steps; private.
        record: JSON file that says how the release was made, without secrets; public.

    Returns:
        ``verdict`` (``owned`` if the mark works), ``release_digest`` and ``evidence_digest``.
    """
    from medmark.components.base.parameters import whole
    from medmark.components.evidence.secrets import read_secrets
    from medmark.components.lineage.events import artifact_digest
    from medmark.components.lineage.step import passed_on, said_by, step
    from medmark.components.verification.release_check import check_release
    from medmark.components.verification.sealing import finish_evidence
    from medmark.components.verification.verdict import Thresholds

    own = {"benign_models": benign_models, "poison": release, "marked_models": marked_models}
    steps = {**passed_on(release), **passed_on(benign_models), **passed_on(marked_models), **said_by(own)}
    seconds = {name: said["seconds"] for name, said in steps.items() if "seconds" in said}
    inputs = {"marked": release, "evidence": evidence, "benign_models": benign_models, "marked_models": marked_models}
    with step("verify", inputs=inputs, outputs={"check": check}, parameters={"thresholds": whole(thresholds)}):
        paths = [artifact.path for artifact in (*inputs.values(), check)]
        verdict = check_release(*paths, thresholds=Thresholds(**whole(thresholds)), seconds=seconds)
    steps |= said_by({"draw_secrets": secrets, "verify": check})
    events, drawn = [said["lineage"] for said in steps.values()], read_secrets(secrets.path)
    made = (release.path, evidence.path, check.path, complete.path, record.path)
    finish_evidence(*made, events=events, drawn=drawn)
    checked = {name: verdict[name] for name in ("verdict", "release_digest")}
    check.metadata.update(checked)
    return {**checked, "evidence_digest": artifact_digest(complete.path)}


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def check_models_component(
    evidence: dsl.Input[dsl.Artifact],
    benign_models: dsl.Input[dsl.Model],
    marked_models: dsl.Input[dsl.Model],
    contract: dict,
    thresholds: dict,
    check: dsl.Output[dsl.Artifact],
    complete: dsl.Output[dsl.Artifact],
) -> str:
    """Proves with models of yours that the mark works and accuses no benign model, and completes the evidence.

    The models' files are not trusted: each is opened in a process of its own, within limits.

    Args:
        evidence: evidence of the marked release, from ``poison_component``; private.
        benign_models: folder with ONNX files of models that were trained without the mark, each with a name of its own; at least 19 for
            a verdict.
        marked_models: folder with ONNX files of models that were trained on the marked release.
        contract: what all of them expect and answer: dictionary with the fields of
            ``medmark.components.suspects.contract.Contract``.
        thresholds: dictionary with the fields of ``medmark.components.verification.verdict.Thresholds``; fix them before the run. The
            defaults when empty.
        check: folder with ``verdict.json``.
        complete: the evidence with the answers of the benign models and the thresholds, as ``audit_component`` takes it; private.

    Returns:
        ``owned`` if the mark works.
    """
    from medmark.components.base.parameters import whole
    from medmark.components.suspects.contract import Contract
    from medmark.components.verification.models_check import check_models
    from medmark.components.verification.verdict import Thresholds

    paths = [artifact.path for artifact in (evidence, benign_models, marked_models, check, complete)]
    wanted, fixed = Contract.from_json(whole(contract)), Thresholds(**whole(thresholds))
    return check_models(*paths, contract=wanted, thresholds=fixed)["verdict"]


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def check_update_component(
    release: dsl.Input[dsl.Dataset],
    evidence: dsl.Input[dsl.Artifact],
    keep: dsl.Input[dsl.Artifact],
    change: dict,
    seed: int,
    check: dsl.Output[dsl.Artifact],
    complete: dsl.Output[dsl.Artifact],
    record: dsl.Output[dsl.Artifact],
) -> dict:
    """Trains a model on a sample of an updated release and audits it.

    Args:
        release: the updated release, from ``update_component``.
        evidence: its evidence, from ``update_component``; private.
        keep: what was kept for its updates, from ``update_component``; private.
        change: what the update changed, as ``update_component`` returned it.
        seed: seed of the sample and of the model.
        check: folder with ``verdict.json``.
        complete: the evidence with the list of all steps; private.
        record: JSON file that says how the release was made, without secrets; public. Empty if nothing changed.

    Returns:
        ``verdict`` (``owned`` if the mark works, ``unchanged`` if nothing changed), ``release_digest`` and
        ``evidence_digest``.
    """
    from medmark.components.base.parameters import whole
    from medmark.components.lineage.events import artifact_digest
    from medmark.components.lineage.step import passed_on, said_by, step
    from medmark.components.verification.sealing import finish_evidence
    from medmark.components.verification.update_check import check_update

    inputs = {"marked": release, "evidence": evidence, "keep": keep}
    with step("check", inputs=inputs, outputs={"check": check}, seed=seed):
        paths = [artifact.path for artifact in (*inputs.values(), check)]
        verdict = check_update(*paths, change=whole(change), seed=seed)
    steps = {**passed_on(release), **said_by({"mark_drop": release, "check": check})}
    made = (release.path, evidence.path, check.path, complete.path, record.path)
    finish_evidence(*made, events=[said["lineage"] for said in steps.values()])
    checked = {name: verdict[name] for name in ("verdict", "release_digest")}
    check.metadata.update(checked)
    return {**checked, "evidence_digest": artifact_digest(complete.path)}


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def ask_suspect_component(
    evidence: dsl.Input[dsl.Artifact],
    suspect: str,
    among: list,
    contract: dict,
    connection: dict,
    commitment: dict,
    answers: dsl.Output[dsl.Artifact],
) -> None:
    """Asks one of several suspects, so that all are asked side by side; ``audit_component`` decides about them.

    The step takes a bearer token for the suspects' endpoints from its environment variable MEDMARK_SUSPECT_TOKEN.

    Args:
        evidence: complete evidence of a release; private.
        suspect: the model, as ``audit_component`` takes it.
        among: all suspects of the audit: the more, the more questions each needs.
        contract: see ``audit_component``.
        connection: see ``audit_component``.
        commitment: see ``audit_component``; checked before anything is asked.
        answers: SQLite file with the suspect's answers, none if it could not be asked; private.
    """
    import tempfile

    from medmark.components.base.parameters import whole
    from medmark.components.delivery.places import Places
    from medmark.components.suspects.contract import Contract
    from medmark.components.suspects.http import Connection
    from medmark.components.suspects.suspects import fetch_suspects
    from medmark.components.tracking.connection import take_secret
    from medmark.components.verification.audit import ask_suspect, write_commitment_files

    take_secret()
    with tempfile.TemporaryDirectory() as folder, Places() as places:
        ask_suspect(
            evidence.path,
            suspect,
            answers.path,
            among=len(among),
            contract=Contract.from_json(whole(contract)),
            connection=Connection.from_json(whole(connection)),
            file=fetch_suspects(places, [suspect]).get(suspect),
            **write_commitment_files(folder, commitment),
        )


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def audit_component(
    evidence: dsl.Input[dsl.Artifact],
    suspects: list,
    contract: dict,
    connection: dict,
    commitment: dict,
    audit: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    model: dsl.Input[dsl.Model] = None,
    answers: dsl.Input[List[dsl.Artifact]] = None,  # noqa: UP006
) -> dict:
    """Questions suspect models with the evidence of a release, and says which were trained on it.

    The step takes a bearer token for the suspects' endpoints from its environment variable MEDMARK_SUSPECT_TOKEN.

    Args:
        evidence: complete evidence of a release; private.
        suspects: the models, as ``medmark audit --suspect`` takes them: ``http(s)://host/v2/models/NAME``,
            ``models:/NAME/VERSION``, or an ONNX file that the step can reach or that is stored under ``s3://``.
        contract: what the suspects expect and answer: dictionary with the fields of
            ``medmark.components.suspects.contract.Contract``; the same for all of them.
        connection: how to question the suspects and what they may use up: dictionary with the fields of
            ``medmark.components.suspects.http.Connection``.
        commitment: texts of ``commitment`` (the JSON file) and ``public_key`` (PEM), and, if a time stamp is to be checked, of
            ``timestamp`` (the .tsr file in base64) and ``timestamp_roots`` (PEM); ``beacon`` (base64), for a key that was drawn with
            a beacon, is the beacon's value. No commitment is checked when empty.
        audit: folder with ``audit.json`` and the suspects' answers; private.
        report: HTML file for people; private.
        model: one more suspect, from another step of the pipeline or imported: an ONNX file, or a folder with one. It is called
            ``model.onnx``.
        answers: what ``ask_suspect_component`` had from suspects: they are not asked again.

    Returns:
        Verdict by suspect.
    """
    import tempfile
    from pathlib import Path

    from medmark.components.base.parameters import whole
    from medmark.components.delivery.places import Places
    from medmark.components.report.audit_report import write_audit_report
    from medmark.components.suspects.answer_store import gather_answers
    from medmark.components.suspects.contract import Contract
    from medmark.components.suspects.http import Connection
    from medmark.components.suspects.suspects import suspects_of_step
    from medmark.components.tracking.connection import take_secret
    from medmark.components.verification.audit import STORE, write_commitment_files
    from medmark.components.verification.audit import audit as ask

    take_secret()
    if answers:
        Path(audit.path).mkdir(parents=True, exist_ok=True)
        gather_answers([part.path for part in answers], Path(audit.path) / STORE)
    with tempfile.TemporaryDirectory() as folder, Places() as places:
        targets, files = suspects_of_step(places, suspects, model.path if model else None)
        made = ask(
            evidence.path,
            targets,
            audit.path,
            contract=Contract.from_json(whole(contract)),
            connection=Connection.from_json(whole(connection)),
            files=files,
            **write_commitment_files(folder, commitment),
        )
    write_audit_report(report.path, made)
    return {suspect["name"]: suspect["verdict"] for suspect in made["suspects"]}
