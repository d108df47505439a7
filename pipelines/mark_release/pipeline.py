"""The DAG of mark_release."""

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import PipelineTask
from kfp.dsl.pipeline_channel import PipelineArtifactChannel, PipelineParameterChannel
from medmark.components.dataset.component import ingest_component, prepare_component
from medmark.components.delivery.component import draw_secrets_component, expand_profile_component
from medmark.components.generator.component import train_generator_component
from medmark.components.poisoning.component import poison_component
from medmark.components.report.component import report_component, track_marking_component
from medmark.components.saliency.component import extract_saliency_component
from medmark.components.verification.component import check_release_component
from medmark.pipelines.kubernetes_secrets import EVIDENCE, MLFLOW, RUN, give
from medmark.pipelines.sign_and_publish import sign_and_publish
from medmark.pipelines.train_each import train_each

train_surrogates = train_each("surrogates")
train_benign_models = train_each("benign models")
train_marked_models = train_each("marked models")


class Made(NamedTuple):
    """Outputs of the pipeline. Only ``release`` and ``record`` are public."""

    clean: dsl.Dataset
    surrogates: dsl.Model
    benign_models: dsl.Model
    generator: dsl.Model
    control: dsl.Model
    release: dsl.Dataset
    evidence: dsl.Artifact
    keep: dsl.Artifact
    marked_models: dsl.Model
    check: dsl.Artifact
    record: dsl.Artifact
    report: dsl.HTML
    unlogged: dsl.Artifact


class Trained(NamedTuple):
    """What is learnt from the clean release: outputs of steps."""

    surrogates: PipelineArtifactChannel
    benign_models: PipelineArtifactChannel
    maps: PipelineArtifactChannel
    generator: PipelineArtifactChannel
    control: PipelineArtifactChannel


def train_on_clean(
    prepared: PipelineArtifactChannel,
    secrets: PipelineArtifactChannel,
    *,
    surrogates: PipelineParameterChannel,
    benign_models: PipelineParameterChannel,
    target_class: PipelineParameterChannel,
    generator_config: PipelineParameterChannel,
    control_config: PipelineParameterChannel,
) -> Trained:
    """Adds the steps that learn from the clean release: classifiers, saliency maps and the two generators.

    Args:
        prepared: images of the clean release.
        secrets: the run's secrets.
        surrogates, benign_models: groups of configurations, see ``train_each``.
        target_class, generator_config, control_config: see ``train_generator_component``.
    """
    panel = train_surrogates(release=prepared, groups=surrogates, secrets=secrets).output
    train_benign = train_benign_models(release=prepared, groups=benign_models, secrets=secrets)
    saliency = extract_saliency_component(release=prepared, surrogates=panel).set_display_name("extract saliency")
    inputs = {"surrogates": panel, "maps": saliency.outputs["maps"], "secrets": secrets}
    mark = train_generator_component(release=prepared, target_class=target_class, config=generator_config, **inputs)
    mark.set_display_name("train generator")
    other = train_generator_component(release=prepared, target_class=target_class, config=control_config, **inputs)
    other.set_display_name("train control generator")
    for task in (mark, other):
        give(task, RUN)
    generators = {"generator": mark.outputs["generator"], "control": other.outputs["generator"]}
    return Trained(panel, train_benign.output, saliency.outputs["maps"], **generators)


def track(parameters: PipelineParameterChannel, **made: PipelineArtifactChannel) -> PipelineTask:
    """Adds the step that logs the run to MLflow.

    Args:
        parameters: parameters of the run.
        made: what the run made, see ``track_marking_component``.
    """
    task = track_marking_component(**made, parameters=parameters, kfp_run=dsl.PIPELINE_JOB_ID_PLACEHOLDER)
    task.set_display_name("track")
    task.set_caching_options(False)  # the server may have been away
    give(task, MLFLOW)
    return task


@dsl.pipeline(
    name="mark-release",
    description="Marks a data set so that models trained on it can be recognised, and checks that the mark works.",
)
def mark_release(
    source: str,
    profile: str = "standard",
    overrides: dict = {},  # noqa: B006
    models_per_step: int = 1,
    ingest_options: dict = {},  # noqa: B006
    name: str = "release",
    version: str = "1",
    source_state: str = "",
    seed: str = "",
    for_figures: bool = False,
    patients: dict = {},  # noqa: B006
    drawing: dict = {},  # noqa: B006
    publish_uri: str = "",
    publish_evidence_uri: str = "",
    sign: bool = False,
    submission: dict = {},  # noqa: B006
    drawn_for: str = "",
) -> Made:
    """Marks a release and checks the mark, as ``medmark run mark-release`` does on one machine.

    Args:
        source: raw images or a release, as the ingest step can reach them.
        profile: how much to compute: ``smoke`` (64 px), ``standard`` (128 px) or ``full`` (224 px, wants a GPU).
        overrides: values of the profile to replace, as ``{"size": 224}``; ``medmark.components.profiles.Profile`` describes them all.
        models_per_step: models of a list that one step trains; the steps run side by side. All of them when 0, as many at a time as the
            step has processors.
        ingest_options: how to read the source, as ``{"label_column": "finding"}``: keyword arguments of
            ``medmark.components.dataset.ingest.ingest``. Any value may refer to the run's secrets, see
            ``medmark.components.evidence.secrets``; seed and key of the pseudonyms do unless they are given.
        name: of the data, for the report and MLflow.
        version: version of the marked release.
        source_state: any text that differs whenever the source's files differ, see ``ingest_component``.
        seed: integer as text from which the run's secrets follow, see ``draw_secrets_component``; drawn when empty.
        for_figures: whoever starts the run vouches that nothing it makes will be released; a seed is refused without that.
        patients: where the key of the pseudonyms is, see ``draw_secrets_component``; drawn when empty.
        drawing: where a drawing is from which the key of the mark follows, and what completes it, see ``draw_secrets_component``;
            the key is self-drawn when empty.
        publish_uri: where to publish the release if its mark works, ``s3://bucket/prefix``. Nothing is published when
            empty.
        publish_evidence_uri: where to store evidence and keep then, ``s3://bucket/prefix`` in another bucket.
        sign: whether to commit to the evidence and sign the lineage before.
        submission: what to record then, see ``publish_component``.
        drawn_for: what the run's secrets are drawn for, such as the submission's key; the run itself when empty. A run that says what an
            earlier one said, and takes the same, goes on with what KFP's cache has of it, secrets included.
    """
    expand = expand_profile_component(
        profile=profile,
        overrides=overrides,
        models_per_step=models_per_step,
        ingest_options=ingest_options,
        name=name,
        drawn_for=drawn_for,
        run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
    )
    given = expand.set_display_name("expand profile").outputs
    draw = draw_secrets_component(
        seed=seed, for_figures=for_figures, patients=patients, drawing=drawing, drawn_for=given["drawn_for"]
    )
    draw.set_display_name("draw secrets")
    give(draw, EVIDENCE, RUN)
    secrets = draw.outputs["secrets"]
    ingest = ingest_component(
        source=source, source_state=source_state, options=given["ingest_options"], secrets=secrets
    )
    give(ingest.set_display_name("ingest"), EVIDENCE, RUN)
    clean = ingest.outputs["release"]
    prepare = prepare_component(release=clean, size=given["size"]).set_display_name("prepare")
    trained = train_on_clean(
        prepare.outputs["prepared"],
        secrets,
        surrogates=given["surrogates"],
        benign_models=given["benign_models"],
        target_class=given["target_class"],
        generator_config=given["generator_config"],
        control_config=given["control_config"],
    )
    poison = poison_component(
        release=clean,
        generator=trained.generator,
        control=trained.control,
        maps=trained.maps,
        origins=ingest.outputs["origins"],
        surrogates=trained.surrogates,
        version=version,
        queries=given["queries"],
        hold_back=given["hold_back"],
    ).set_display_name("poison")
    marked, evidence = poison.outputs["marked"], poison.outputs["evidence"]
    prepare_marked = prepare_component(release=marked, size=given["size"]).set_display_name("prepare marked")
    manifest = prepare_marked.outputs["manifest"]
    prepared = prepare_marked.outputs["prepared"]
    train = train_marked_models(release=prepared, groups=given["marked_models"], secrets=secrets)
    models = {"benign_models": trained.benign_models, "marked_models": train.output}
    check = check_release_component(
        release=manifest, evidence=evidence, **models, thresholds=given["thresholds"], secrets=secrets
    )
    give(check.set_display_name("verify"), RUN)
    report = report_component(
        clean=clean,
        marked=marked,
        evidence=evidence,
        maps=trained.maps,
        generator=trained.generator,
        **models,
        check=check.outputs["check"],
        parameters=given["parameters"],
    ).set_display_name("report")
    logged = {
        "clean": clean,
        "surrogates": trained.surrogates,
        **models,
        "generator": trained.generator,
        "control": trained.control,
        "release": marked,
        "evidence": check.outputs["complete"],
        "check": check.outputs["check"],
        "record": check.outputs["record"],
    }
    manifests = {"clean": prepare.outputs["manifest"], "release": manifest}
    tracked = track(given["parameters"], **logged | manifests)
    keep = poison.outputs["keep"]
    with dsl.If(publish_uri != "", name="publish"):
        sign_and_publish(
            check,
            tracked=tracked,
            publish_uri=publish_uri,
            publish_evidence_uri=publish_evidence_uri,
            sign=sign,
            submission=submission,
            subject=marked,
            manifest=manifest,
            keep=keep,
        )
    return Made(**logged, keep=keep, report=report.outputs["report"], unlogged=tracked.outputs["unlogged"])
