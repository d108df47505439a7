"""Define the pipeline mark_segmenter."""

from typing import NamedTuple

from kfp import dsl
from medmark.components.dataset.component import ingest_component
from medmark.components.delivery.component import draw_secrets_component
from medmark.components.segmentation.component import (
    check_segmenter_component,
    expand_segmenter_profile_component,
    mark_segmenter_component,
    track_segmenter_component,
    train_segmenters_component,
)
from medmark.pipelines.kubernetes_secrets import EVIDENCE, MLFLOW, RUN, give
from medmark.pipelines.sign_and_publish import sign_and_publish


class Made(NamedTuple):
    """Outputs of the pipeline. Only ``model`` and ``record`` are public."""

    release: dsl.Dataset
    model: dsl.Model
    unmarked: dsl.Model
    evidence: dsl.Artifact
    record: dsl.Artifact
    check: dsl.Artifact
    report: dsl.HTML
    unlogged: dsl.Artifact


@dsl.pipeline(
    name="mark-segmenter",
    description="Trains a segmenter that shows its owner's text in its uncertainty under a secret trigger, and checks it.",
)
def mark_segmenter(
    source: str,
    text: str,
    profile: str = "standard",
    overrides: dict = {},  # noqa: B006
    ingest_options: dict = {},  # noqa: B006
    data_name: str = "release",
    name: str = "segmenter",
    version: str = "1",
    weights: str = "",
    weights_sha256: str = "",
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
    """Trains a marked segmenter from images and masks, as ``medmark run mark-segmenter`` does on one machine.

    Args:
        source: raw images with masks, or a release for segmentation, as the ingest step can reach them.
        text: of the owner, 1 to 16 printable bytes.
        profile: how much to compute: ``smoke`` (64 px), ``standard`` (128 px) or ``full`` (256 px, wants a GPU).
        overrides: values of the profile to replace, as ``{"size": 256}``; ``medmark.components.segmentation.profiles.SegmenterProfile``
            describes them all.
        ingest_options: how to read the source, as ``{"image_mode": "RGB"}``: keyword arguments of
            ``medmark.components.dataset.ingest.ingest``; the task is segmentation.
        data_name: of the data, for the report and MLflow.
        name: of the model; public.
        version: of the model; public.
        weights: safetensors file of a trained segmenter to mark, as a path that the steps can reach or as ``s3://bucket/name``; empty if one
            is trained from scratch.
        weights_sha256: that it must have.
        source_state: any text that differs whenever the source's files differ, see ``ingest_component``.
        seed: integer as text from which the run's secrets follow, see ``draw_secrets_component``; drawn when empty.
        for_figures: whoever starts the run vouches that nothing it makes will be handed out; a seed is refused without that.
        patients: where the key of the pseudonyms is, see ``draw_secrets_component``; drawn when empty.
        drawing: where a drawing is from which the key of the mark follows, see ``draw_secrets_component``; self-drawn when empty.
        publish_uri: where to publish the marked model if its mark works, ``s3://bucket/prefix``. Nothing is published when empty.
        publish_evidence_uri: where to store the evidence then, ``s3://bucket/prefix`` in another bucket.
        sign: whether to commit to the evidence before, and to sign the lineage.
        submission: what to record then, see ``publish_component``.
        drawn_for: what the run's secrets are drawn for, such as the submission's key; the run itself when empty. A run that says what an
            earlier one said, and takes the same, goes on with what KFP's cache has of it, secrets included.
    """
    expand = expand_segmenter_profile_component(
        profile=profile,
        overrides=overrides,
        ingest_options=ingest_options,
        weights=weights,
        name=data_name,
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
    release = ingest.outputs["release"]
    train = train_segmenters_component(release=release, configs=given["unmarked_configs"], secrets=secrets)
    unmarked = train.set_display_name("train unmarked segmenters").outputs["models"]
    mark = mark_segmenter_component(
        release=release,
        secrets=secrets,
        config=given["config"],
        text=text,
        trigger=given["trigger"],
        name=name,
        version=version,
        queries=given["queries"],
        weights_sha256=weights_sha256,
    ).set_display_name("mark segmenter")
    model = mark.outputs["model"]
    check = check_segmenter_component(
        release=release,
        model=model,
        evidence=mark.outputs["evidence"],
        unmarked=unmarked,
        secrets=secrets,
        thresholds=given["thresholds"],
        parameters=given["parameters"],
    ).set_display_name("check segmenter")
    tracked = track_segmenter_component(
        release=release,
        model=model,
        unmarked=unmarked,
        evidence=check.outputs["complete"],
        check=check.outputs["check"],
        parameters=given["parameters"],
        kfp_run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
    ).set_display_name("track")
    for task in (train, mark):
        give(task, EVIDENCE, RUN)
    give(check, RUN)
    give(tracked, MLFLOW)
    tracked.set_caching_options(False)  # the server may have been away
    with dsl.If(publish_uri != "", name="publish"):
        sign_and_publish(
            check,
            tracked=tracked,
            publish_uri=publish_uri,
            publish_evidence_uri=publish_evidence_uri,
            sign=sign,
            submission=submission,
            subject=model,
        )
    return Made(
        release=release,
        model=model,
        unmarked=unmarked,
        evidence=check.outputs["complete"],
        record=check.outputs["record"],
        check=check.outputs["check"],
        report=check.outputs["report"],
        unlogged=tracked.outputs["unlogged"],
    )
