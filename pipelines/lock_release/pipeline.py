"""Define the pipeline lock_release."""

from typing import NamedTuple

from kfp import dsl
from medmark.components.dataset.component import ingest_component
from medmark.components.delivery.component import draw_secrets_component
from medmark.components.locking.component import (
    check_locks_component,
    expand_lock_profile_component,
    lock_release_component,
    track_locking_component,
    train_lesion_segmenter_component,
)
from medmark.components.surrogate.component import train_classifiers_component
from medmark.pipelines.kubernetes_secrets import EVIDENCE, MLFLOW, RUN, give
from medmark.pipelines.sign_and_publish import sign_and_publish


class Made(NamedTuple):
    """Outputs of the pipeline. Only ``release`` and ``record`` are public."""

    clean: dsl.Dataset
    models: dsl.Model
    unseen: dsl.Model
    release: dsl.Dataset
    evidence: dsl.Artifact
    check: dsl.Artifact
    record: dsl.Artifact
    report: dsl.HTML
    unlogged: dsl.Artifact


@dsl.pipeline(
    name="lock-release",
    description="Puts a logo onto every image where classifiers fail on it and no lesion is covered, and checks that a key brings it back.",
)
def lock_release(
    source: str,
    recipients: dict,
    profile: str = "standard",
    overrides: dict = {},  # noqa: B006
    ingest_options: dict = {},  # noqa: B006
    name: str = "release",
    version: str = "1-locked",
    text: str = "NOT FOR ANALYSIS",
    logos: list = [],  # noqa: B006
    source_state: str = "",
    seed: str = "",
    for_figures: bool = False,
    patients: dict = {},  # noqa: B006
    publish_uri: str = "",
    publish_evidence_uri: str = "",
    publish_weak: bool = False,
    sign: bool = False,
    submission: dict = {},  # noqa: B006
    drawn_for: str = "",
) -> Made:
    """Locks raw images or a release, as ``medmark run lock-release`` does on one machine.

    Args:
        source: raw images or a release, as the ingest step can reach them.
        recipients: text of ``locking.pub`` by name: who may unlock, the owner first.
        profile: how much to compute: ``smoke`` (64 px), ``standard`` (128 px) or ``full`` (224 px, wants a GPU).
        overrides: values of the profile to replace, as ``{"size": 224}``; ``medmark.components.locking.profiles.LockProfile``
            describes them all.
        ingest_options: how to read the source, as ``{"lesions": true}``: keyword arguments of
            ``medmark.components.dataset.ingest.ingest``.
        name: of the data, for the report and MLflow.
        version: of the locked release; public.
        text: see ``lock_release_component``, as the next one.
        logos: PNG files.
        source_state: any text that differs whenever the source's files differ, see ``ingest_component``.
        seed: integer as text from which the run's secrets follow, see ``draw_secrets_component``; drawn when empty.
        for_figures: whoever starts the run vouches that nothing it makes will be handed out; a seed is refused without that.
        patients: where the key of the pseudonyms is, see ``draw_secrets_component``; drawn when empty.
        publish_uri: where to publish the locked release if its locks hold, ``s3://bucket/prefix``. Nothing is published when empty.
        publish_evidence_uri: where to store the evidence then, ``s3://bucket/prefix`` in another bucket.
        publish_weak: publish it, too, if classifiers see more than they may; never if a lesion is covered or an image does not come back.
        sign: whether to sign certificates and lineage before.
        submission: what to record then, see ``publish_component``.
        drawn_for: what the run's secrets are drawn for, such as the submission's key; the run itself when empty. A run that says what an
            earlier one said, and takes the same, goes on with what KFP's cache has of it, secrets included.
    """
    expand = expand_lock_profile_component(
        profile=profile,
        overrides=overrides,
        ingest_options=ingest_options,
        name=name,
        drawn_for=drawn_for,
        run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
    )
    given = expand.set_display_name("expand profile").outputs
    draw = draw_secrets_component(
        seed=seed, for_figures=for_figures, patients=patients, drawing={}, drawn_for=given["drawn_for"]
    )
    give(draw.set_display_name("draw secrets"), EVIDENCE, RUN)
    secrets = draw.outputs["secrets"]
    ingest = ingest_component(
        source=source, source_state=source_state, options=given["ingest_options"], secrets=secrets
    )
    give(ingest.set_display_name("ingest"), EVIDENCE, RUN)
    clean = ingest.outputs["release"]
    train = train_classifiers_component(release=clean, configs=given["configs"], secrets=secrets)
    models = train.set_display_name("train classifiers").outputs["models"]
    train_unseen = train_classifiers_component(release=clean, configs=given["unseen_configs"], secrets=secrets)
    unseen = train_unseen.set_display_name("train unseen classifiers").outputs["models"]
    train_segmenter = train_lesion_segmenter_component(release=clean, config=given["segmenter_config"], secrets=secrets)
    segmenter = train_segmenter.set_display_name("train lesion segmenter").outputs["segmenter"]
    lock = lock_release_component(
        clean=clean,
        models=models,
        segmenter=segmenter,
        secrets=secrets,
        version=version,
        text=text,
        logos=logos,
        search=given["search"],
        recipients=recipients,
    ).set_display_name("lock")
    give(lock, EVIDENCE)
    release = lock.outputs["release"]
    check = check_locks_component(
        clean=clean,
        release=release,
        evidence=lock.outputs["evidence"],
        models=models,
        unseen=unseen,
        segmenter=segmenter,
        secrets=secrets,
        search=given["search"],
        removal_steps=given["removal_steps"],
        thresholds=given["thresholds"],
        parameters=given["parameters"],
    ).set_display_name("check locks")
    tracked = track_locking_component(
        release=release,
        models=models,
        unseen=unseen,
        check=check.outputs["check"],
        parameters=given["parameters"],
        kfp_run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
    ).set_display_name("track")
    for task in (train, train_unseen, train_segmenter, lock, check):
        give(task, RUN)
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
            subject=release,
            publish_weak=publish_weak,
        )
    return Made(
        clean=clean,
        models=models,
        unseen=unseen,
        release=release,
        evidence=check.outputs["complete"],
        check=check.outputs["check"],
        record=check.outputs["record"],
        report=check.outputs["report"],
        unlogged=tracked.outputs["unlogged"],
    )
