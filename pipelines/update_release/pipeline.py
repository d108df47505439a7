"""The DAG of update_release."""

from typing import NamedTuple

from kfp import dsl
from medmark.components.dataset.component import read_drop_component
from medmark.components.delivery.component import fetch_previous_component
from medmark.components.poisoning.component import update_component
from medmark.components.report.component import track_update_component
from medmark.components.verification.component import check_update_component
from medmark.pipelines.kubernetes_secrets import EVIDENCE, MLFLOW, RELEASES, give
from medmark.pipelines.sign_and_publish import sign_and_publish


class Made(NamedTuple):
    """Outputs of the pipeline. Only ``release`` and ``record`` are public."""

    release: dsl.Dataset
    evidence: dsl.Artifact
    keep: dsl.Artifact
    check: dsl.Artifact
    record: dsl.Artifact
    unlogged: dsl.Artifact


@dsl.pipeline(
    name="update-release",
    description="Marks what a new drop of raw images brings, and checks that the mark still works.",
)
def update_release(
    source: str,
    source_state: str,
    drop_options: dict,
    previous_uri: str,
    evidence_uri: str,
    keep_uri: str,
    previous_digest: str,
    evidence_digest: str,
    keep_digest: str,
    version: str,
    seed: int,
    publish_uri: str = "",
    publish_evidence_uri: str = "",
    sign: bool = False,
    submission: dict = {},  # noqa: B006
) -> Made:
    """Makes the next release from a drop, as ``medmark run update-release`` does on one machine.

    If the drop changes nothing, the release that comes out is the previous one, and nothing is published.

    Args:
        source: the drop, as the step that reads it can reach it.
        source_state: see ``read_drop_component``.
        drop_options: keyword arguments of ``medmark.components.dataset.drop.read_drop``.
        previous_uri: the previous marked release: ``s3://bucket/prefix/<digest>``, or a folder that the steps can reach.
        evidence_uri: its evidence, likewise.
        keep_uri: what was kept for its updates, likewise.
        previous_digest: SHA-256 of the previous ``release.json``.
        evidence_digest: SHA-256 of its ``evidence.json``.
        keep_digest: SHA-256 of its ``keep.json``.
        version: version of the new release.
        seed: seed of the model that checks the mark.
        publish_uri: where to publish the release if anything changed and its mark works, ``s3://bucket/prefix``. Nothing is
            published when empty.
        publish_evidence_uri: where to store evidence and keep then, ``s3://bucket/prefix`` in another bucket.
        sign: whether to commit to the evidence and sign the lineage before.
        submission: what to record then, see ``publish_component``.
    """
    before = fetch_previous_component(
        release_uri=previous_uri,
        evidence_uri=evidence_uri,
        keep_uri=keep_uri,
        release_digest=previous_digest,
        evidence_digest=evidence_digest,
        keep_digest=keep_digest,
    )
    before.set_display_name("fetch the previous release")
    give(before, RELEASES, EVIDENCE)
    previous, evidence, keep = (before.outputs[name] for name in ("release", "evidence", "keep"))
    drop = read_drop_component(
        source=source,
        source_state=source_state,
        options=drop_options,
        previous=previous,
        keep=keep,
    )
    drop.set_display_name("read the drop")
    give(drop, EVIDENCE)
    update = update_component(
        previous=previous, evidence=evidence, keep=keep, drop=drop.outputs["drop"], version=version
    )
    update.set_display_name("mark what is new")
    marked, new_keep = update.outputs["marked"], update.outputs["new_keep"]
    check = check_update_component(
        release=marked,
        evidence=update.outputs["new_evidence"],
        keep=new_keep,
        change=update.outputs["Output"],
        seed=seed,
    )
    check.set_display_name("check the mark")
    logged = {
        "evidence": check.outputs["complete"],
        "check": check.outputs["check"],
        "record": check.outputs["record"],
    }
    manifest = update.outputs["manifest"]
    tracked = track_update_component(release=manifest, **logged, kfp_run=dsl.PIPELINE_JOB_ID_PLACEHOLDER)
    tracked.set_display_name("track")
    tracked.set_caching_options(False)  # the server may have been away
    give(tracked, MLFLOW)
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
            keep=new_keep,
            parent=before.outputs["manifest"],
        )
    return Made(release=marked, **logged, keep=new_keep, unlogged=tracked.outputs["unlogged"])
