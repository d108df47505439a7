"""The last steps of a run on a cluster: sign what it made, and publish it."""

from kfp.dsl import PipelineTask
from kfp.dsl.pipeline_channel import PipelineArtifactChannel, PipelineParameterChannel
from medmark.components.delivery.component import publish_component
from medmark.components.lineage.component import sign_component
from medmark.pipelines.kubernetes_secrets import EVIDENCE, MLFLOW, RELEASES, SIGNING, give


def sign_and_publish(
    check: PipelineTask,
    *,
    tracked: PipelineTask,
    publish_uri: PipelineParameterChannel,
    publish_evidence_uri: PipelineParameterChannel,
    sign: PipelineParameterChannel,
    submission: PipelineParameterChannel,
    release: PipelineArtifactChannel,
    keep: PipelineArtifactChannel,
    **parent: PipelineArtifactChannel,
) -> None:
    """Adds the two steps.

    Args:
        check: the step that checked the mark.
        tracked: the step that logged the run to MLflow: models that go out must be known there.
        publish_uri: see ``publish_component``, as the next three.
        publish_evidence_uri: where evidence and keep go.
        sign: whether to sign.
        submission: what is recorded.
        release: the release that the run made.
        keep: what it kept for updates.
        parent: ``parent``, the previous marked release, if the run was an update.
    """
    evidence, record = check.outputs["complete"], check.outputs["record"]
    signed = sign_component(
        release=release, evidence=evidence, record=record, checked=check.outputs["Output"], sign=sign, **parent
    )
    signed.set_display_name("sign")
    give(signed, SIGNING)
    published = publish_component(
        release=release,
        evidence=evidence,
        keep=keep,
        check=check.outputs["check"],
        signatures=signed.outputs["signatures"],
        publish_uri=publish_uri,
        publish_evidence_uri=publish_evidence_uri,
        sign=sign,
        submission=submission,
    )
    published.set_display_name("publish")
    published.set_caching_options(False)  # the store may have lost what was published
    published.after(tracked)
    give(published, RELEASES, EVIDENCE, MLFLOW)
