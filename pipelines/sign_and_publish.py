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
    subject: PipelineArtifactChannel,
    manifest: PipelineArtifactChannel | None = None,
    keep: PipelineArtifactChannel | None = None,
    parent: PipelineArtifactChannel | None = None,
    publish_weak: PipelineParameterChannel | None = None,
) -> None:
    """Adds the two steps.

    Args:
        check: the step that checked what the run made; its output ``record`` is signed.
        tracked: the step that logged the run to MLflow: models that go out must be known there.
        publish_uri: see ``publish_component``, as the next three.
        publish_evidence_uri: where evidence and keep go.
        sign: whether to sign.
        submission: what is recorded.
        subject: the release or model that the run made.
        manifest: of the release, if a step made one; the step that signs then does without the images.
        keep: what it kept for updates, if there can be any.
        parent: the previous marked release or its manifest, if the run was an update.
        publish_weak: whether a locked release may go out whose locks are weak.
    """
    evidence = check.outputs["complete"]
    weak = {} if publish_weak is None else {"publish_weak": publish_weak}
    before = {} if parent is None else {"parent": parent}
    signed = sign_component(
        subject=subject if manifest is None else manifest,
        evidence=evidence,
        record=check.outputs["record"],
        checked=check.outputs["Output"],
        sign=sign,
        **before,
        **weak,
    )
    signed.set_display_name("sign")
    signed.set_caching_options(False)  # the key may have changed, or have come only now
    give(signed, SIGNING)
    published = publish_component(
        subject=subject,
        evidence=evidence,
        check=check.outputs["check"],
        signatures=signed.outputs["signatures"],
        publish_uri=publish_uri,
        publish_evidence_uri=publish_evidence_uri,
        sign=sign,
        submission=submission,
        **({} if keep is None else {"keep": keep}),
        **weak,
    )
    published.set_display_name("publish")
    published.set_caching_options(False)  # the store may have lost what was published
    published.after(tracked)
    give(published, RELEASES, EVIDENCE, MLFLOW)
