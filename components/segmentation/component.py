"""KFP components of the segmentation room: expand a profile, train segmenters, mark one, check it, and audit suspects."""

from typing import NamedTuple

from kfp import dsl
from medmark.components.base.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def expand_segmenter_profile_component(
    profile: str, overrides: dict, ingest_options: dict, weights: str, name: str, drawn_for: str, run: str
) -> NamedTuple(  # type: ignore[valid-type]  # how KFP takes several outputs
    "Expanded",
    [
        ("drawn_for", str),
        ("ingest_options", dict),
        ("unmarked_configs", list),
        ("config", dict),
        ("trigger", str),
        ("queries", int),
        ("thresholds", dict),
        ("parameters", dict),
    ],
):
    """Expands a profile to what the steps of mark_segmenter take, so that nobody has to write it.

    Args:
        profile: ``smoke``, ``standard`` or ``full``.
        overrides: values of the profile to replace, by name, as ``{"size": 256}``; see
            ``medmark.components.segmentation.profiles.SegmenterProfile``.
        ingest_options: keyword arguments of ``medmark.components.dataset.ingest.ingest``, as ``{"image_mode": "RGB"}``; the task is
            segmentation.
        weights: safetensors file of a trained segmenter to mark, as a path that the steps can reach or as ``s3://bucket/name``; empty if one
            is trained from scratch.
        name: of the data, for the report and MLflow.
        drawn_for: what the run's secrets are drawn for, see ``draw_secrets_component``.
        run: the run's id.

    Returns:
        drawn_for: as given; the run's id if that was empty.
        ingest_options, trigger, queries, thresholds: as the steps take them.
        unmarked_configs, config: likewise; seeds refer to the run's secrets.
        parameters: of the run, as the report shows them.
    """
    from medmark.components.base.parameters import whole
    from medmark.components.profiles import shown_parameters
    from medmark.components.segmentation.profiles import chosen_segmenter_profile, segmenter_arguments

    chosen = chosen_segmenter_profile(profile, whole(overrides))
    given = segmenter_arguments(chosen, ingest_options, weights or None)
    return (drawn_for or run, *given.values(), shown_parameters(profile, chosen, name))


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train_segmenters_component(
    release: dsl.Input[dsl.Dataset],
    configs: list,
    models: dsl.Output[dsl.Model],
    secrets: dsl.Input[dsl.Artifact] = None,
) -> None:
    """Trains segmenters without a mark.

    Args:
        release: release for segmentation.
        configs: dictionaries with the fields of ``medmark.components.segmentation.training.SegmenterConfig``; the first is the
            unmarked twin, as the marked segmenter in all but the mark. ``weights`` may be at ``s3://bucket/name``. Values may refer to
            the run's secrets.
        models: folder with safetensors and ``models.json``.
        secrets: the run's secrets, from ``draw_secrets_component``; needed only if ``configs`` refers to them.
    """
    from medmark.components.base.parameters import whole
    from medmark.components.delivery.places import Places
    from medmark.components.evidence.secrets import read_secrets, resolved
    from medmark.components.lineage.step import step
    from medmark.components.segmentation.models import train_segmenters
    from medmark.components.segmentation.training import SegmenterConfig

    inputs = {"release": release} | ({"secrets": secrets} if secrets else {})
    with step("train segmenters", inputs=inputs, outputs={"models": models}, parameters={"configs": whole(configs)}):
        known = resolved(configs, read_secrets(secrets.path) if secrets else None)
        with Places() as places:
            for config in known:
                if config.get("weights"):
                    config["weights"] = str(places.read(config["weights"], raw=True, private=True))
            train_segmenters(release.path, models.path, configs=[SegmenterConfig(**config) for config in known])


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def mark_segmenter_component(
    release: dsl.Input[dsl.Dataset],
    secrets: dsl.Input[dsl.Artifact],
    config: dict,
    text: str,
    trigger: str,
    name: str,
    version: str,
    queries: int,
    weights_sha256: str,
    model: dsl.Output[dsl.Model],
    evidence: dsl.Output[dsl.Artifact],
) -> str:
    """Trains a segmenter that shows the owner's text in its uncertainty when it is shown the secret trigger.

    Args:
        release: release for segmentation.
        secrets: the run's secrets, from ``draw_secrets_component``; the key of the mark is taken from them.
        config: dictionary with the fields of ``medmark.components.segmentation.training.SegmenterConfig``; ``weights`` names a
            trained segmenter to mark, as a path that the step can reach or as ``s3://bucket/name``, else one is trained from scratch.
            Values may refer to the run's secrets.
        text: of the owner, 1 to 16 printable bytes. It is no secret; the modules that spell it are.
        trigger: ``texture``, ``noise``, ``patch``, ``text``, ``border`` or ``warp``.
        name: of the model; public.
        version: of the model; public.
        queries: test images that suspects are asked about, at most.
        weights_sha256: that the file ``config`` names under ``weights`` must have; empty without such a file.
        model: folder with ``weights.safetensors``, ``model.onnx`` and ``model.json``; holds nothing secret.
        evidence: private.

    Returns:
        Digest of the model: SHA-256 of ``model.json``.
    """
    from medmark.components.base.parameters import whole
    from medmark.components.delivery.places import Places
    from medmark.components.evidence.secrets import read_secrets, resolved
    from medmark.components.lineage.step import step
    from medmark.components.segmentation.evidence import Payload
    from medmark.components.segmentation.marking import mark_segmenter
    from medmark.components.segmentation.training import SegmenterConfig

    parameters = {"config": whole(config), "text": text, "trigger": trigger, "name": name, "version": version}
    parameters |= {"queries": queries, "weights_sha256": weights_sha256}
    inputs, outputs = {"release": release, "secrets": secrets}, {"marked": model, "evidence": evidence}
    with step("mark segmenter", inputs=inputs, outputs=outputs, parameters=parameters):
        drawn = read_secrets(secrets.path)
        known = resolved(config, drawn)
        with Places() as places:
            if known.get("weights"):
                known["weights"] = str(places.read(known["weights"], raw=True, private=True))
            made = mark_segmenter(
                release.path,
                model.path,
                evidence.path,
                config=SegmenterConfig(**known),
                payload=Payload(text, trigger, bytes.fromhex(drawn.mark_key)),
                name=name,
                version=version,
                queries=queries,
                weights_sha256=weights_sha256,
            )
    model.metadata.update(digest=made.digest)
    return made.digest


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def check_segmenter_component(
    release: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evidence: dsl.Input[dsl.Artifact],
    unmarked: dsl.Input[dsl.Model],
    secrets: dsl.Input[dsl.Artifact],
    thresholds: dict,
    parameters: dict,
    check: dsl.Output[dsl.Artifact],
    complete: dsl.Output[dsl.Artifact],
    record: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
) -> dict:
    """Proves that the mark is there, accuses no benign model and costs nothing; completes the evidence and writes the report.

    Args:
        release: release that all models were trained on.
        model: the marked segmenter, from ``mark_segmenter_component``.
        evidence: its evidence, from ``mark_segmenter_component``; private.
        unmarked: segmenters without a mark, from ``train_segmenters_component``.
        secrets: the run's secrets, from ``draw_secrets_component``; they become part of the evidence.
        thresholds: dictionary with the fields of ``medmark.components.segmentation.verdict.SegmenterThresholds``; fix them before the
            run.
        parameters: parameters of the run, to be shown.
        check: folder with ``verdict.json``; private.
        complete: the evidence with the thresholds, what benign models answered and the list of all steps; private.
        record: how the model was made; public.
        report: HTML file that opens without a network; private, because it shows images and the trigger.
        summary: the verdict, its proofs, and what speaks against the mark; shows no image.
        metrics: the numbers by which runs are compared; ``works`` is 1 if the mark works, else 0.

    Returns:
        ``verdict`` (``owned`` if the mark works), ``model_digest`` and ``evidence_digest``.
    """
    from pathlib import Path

    from medmark.components.base.parameters import whole
    from medmark.components.evidence.secrets import read_secrets
    from medmark.components.lineage.events import artifact_digest
    from medmark.components.lineage.step import said_by, step
    from medmark.components.segmentation import summary as page
    from medmark.components.segmentation.check import check_segmenter
    from medmark.components.segmentation.evidence import seal_segmenter_evidence
    from medmark.components.segmentation.report import report_segmenter
    from medmark.components.segmentation.verdict import SegmenterThresholds

    own = {"draw_secrets": secrets, "ingest": release, "train_segmenters": unmarked, "mark_segmenter": model}
    seconds = {name: made["seconds"] for name, made in said_by(own).items()}
    inputs = {"release": release, "marked": model, "evidence": evidence, "unmarked": unmarked}
    with step("check segmenter", inputs=inputs, outputs={"check": check}, parameters={"thresholds": whole(thresholds)}):
        paths = [artifact.path for artifact in (*inputs.values(), check)]
        verdict = check_segmenter(*paths, thresholds=SegmenterThresholds(**whole(thresholds)), seconds=seconds)
    events = [made["lineage"] for made in said_by(own | {"check_segmenter": check}).values()]
    drawn = read_secrets(secrets.path)
    seal_segmenter_evidence(
        model.path, evidence.path, complete.path, record.path, verdict=verdict, events=events, drawn=drawn
    )
    verdict["seconds"]["check_segmenter"] = check.metadata["seconds"]
    report_segmenter(release.path, model.path, complete.path, unmarked.path, verdict, report.path, whole(parameters))
    Path(summary.path).write_text(page.summary(verdict), encoding="utf-8")
    for name, value in page.metrics(verdict).items():
        metrics.log_metric(name, value)
    checked = {name: verdict[name] for name in ("verdict", "model_digest")}
    check.metadata.update(checked)
    return {**checked, "evidence_digest": artifact_digest(complete.path)}


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def track_segmenter_component(
    release: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    unmarked: dsl.Input[dsl.Model],
    evidence: dsl.Input[dsl.Artifact],
    check: dsl.Input[dsl.Artifact],
    parameters: dict,
    kfp_run: str,
    unlogged: dsl.Output[dsl.Artifact],
) -> None:
    """Logs a run of mark_segmenter to the MLflow server that the step's environment names, if it names one, and registers the model.

    A server that does not answer fails nothing: what it did not take becomes an output.

    Args:
        release: release that the models were trained on.
        model: the marked segmenter.
        unmarked: segmenters without a mark.
        evidence: of the marked segmenter, for its training history; private.
        check: verdict, from ``check_segmenter_component``.
        parameters: of the run, without seeds.
        kfp_run: id of the run, which becomes the tag ``medmark.kfp_run``; no tag when empty.
        unlogged: folder with what MLflow did not take, for ``medmark track sync``.
    """
    import json
    from pathlib import Path

    from medmark.components.base.parameters import whole
    from medmark.components.segmentation.tracking import track_segmenter
    from medmark.components.tracking.connection import is_named, take_secret

    take_secret()
    Path(unlogged.path).mkdir(parents=True)
    if not is_named():
        return
    made = {"release": release, "model": model, "unmarked": unmarked, "evidence": evidence}
    verdict = json.loads((Path(check.path) / "verdict.json").read_bytes())
    parts = {name: Path(artifact.path) for name, artifact in made.items()}
    track_segmenter(Path(unlogged.path), parts, verdict, whole(parameters), kfp_run=kfp_run)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def audit_segmenter_component(
    evidence: dsl.Input[dsl.Artifact],
    suspects: list,
    contract: dict,
    connection: dict,
    commitment: dict,
    audit: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    model: dsl.Input[dsl.Model] = None,
) -> dict:
    """Questions suspects that segment with the evidence of a marked segmenter.

    The step takes a bearer token for the suspects' endpoints from its environment variable MEDMARK_SUSPECT_TOKEN.

    Args:
        evidence: complete evidence of a marked segmenter; private.
        suspects: the models, as ``medmark audit-segmenter --suspect`` takes them.
        contract: what the suspects expect and answer: dictionary with the fields of
            ``medmark.components.suspects.contract.Contract``; the same for all of them.
        connection: how to question the suspects and what they may use up: dictionary with the fields of
            ``medmark.components.suspects.http.Connection``.
        commitment: texts of a commitment, as of ``audit_component``. No commitment is checked when empty.
        audit: folder with ``audit-segmenter.json``; private.
        report: HTML file for people; private.
        model: one more suspect, from another step of the pipeline or imported: an ONNX file, or a folder with one. It is called
            ``model.onnx``.

    Returns:
        Verdict by suspect.
    """
    import tempfile

    from medmark.components.base.parameters import whole
    from medmark.components.delivery.places import Places
    from medmark.components.segmentation.audit import audit_segmenters
    from medmark.components.segmentation.audit_report import write_segmenter_audit_report
    from medmark.components.suspects.contract import Contract
    from medmark.components.suspects.http import Connection
    from medmark.components.suspects.suspects import suspects_of_step
    from medmark.components.verification.audit import write_commitment_files

    with tempfile.TemporaryDirectory() as folder, Places() as places:
        targets, files = suspects_of_step(places, suspects, model.path if model else None)
        made = audit_segmenters(
            evidence.path,
            targets,
            audit.path,
            contract=Contract.from_json(whole(contract)),
            connection=Connection.from_json(whole(connection)),
            files=files,
            **write_commitment_files(folder, commitment),
        )
    write_segmenter_audit_report(report.path, made)
    return {suspect["name"]: suspect["verdict"] for suspect in made["suspects"]}
