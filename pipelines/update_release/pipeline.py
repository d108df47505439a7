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
    """What the pipeline gives back; all but ``release`` and ``record`` is private."""

    release: dsl.Dataset
    evidence: dsl.Artifact
    keep: dsl.Artifact
    check: dsl.Artifact
    record: dsl.Artifact


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
    """See ``medmark run update-release``.

    If the drop changes nothing, the release that comes out is the previous one, with its digest: there is nothing to publish.

    Args:
        source: the drop, as the first step can reach it.
        source_state: another text whenever the drop's files are others, so that the cache notices; see
            ``read_drop_component``.
        drop_options: keyword arguments of ``read_drop``.
        previous_uri, evidence_uri, keep_uri: the previous marked release, its evidence, and what was kept for updates:
            ``s3://bucket/prefix/<digest>``, or folders that the steps can reach.
        previous_digest, evidence_digest, keep_digest: of the three: SHA-256 of ``release.json``, ``evidence.json`` and
            ``keep.json``.
        version: of the new release.
        seed: of the model that checks the mark.
        publish_uri: where the release is published, ``s3://bucket/prefix``, if anything changed and the mark works; empty:
            nothing is published or tracked in MLflow.
        publish_evidence_uri: where evidence and keep are then published, in another bucket.
        sign: whether to commit to the evidence and sign the lineage before.
        submission: what is recorded then, see ``publish_component``.
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
    updated = update_component(
        previous=previous, evidence=evidence, keep=keep, drop=drop.outputs["drop"], version=version
    )
    updated.set_display_name("mark what is new")
    check = check_update_component(
        release=updated.outputs["marked"],
        evidence=updated.outputs["new_evidence"],
        keep=updated.outputs["new_keep"],
        change=updated.outputs["Output"],
        seed=seed,
    )
    check.set_display_name("check the mark")
    with dsl.If(publish_uri != "", name="publish"):
        tracked = track_update_component(
            release=updated.outputs["marked"],
            evidence=check.outputs["complete"],
            check=check.outputs["check"],
            record=check.outputs["record"],
        )
        tracked.set_display_name("track")
        give(tracked, MLFLOW)
        sign_and_publish(
            check,
            tracked=tracked,
            publish_uri=publish_uri,
            publish_evidence_uri=publish_evidence_uri,
            sign=sign,
            submission=submission,
            release=updated.outputs["marked"],
            keep=updated.outputs["new_keep"],
            parent=previous,
        )
    return Made(
        release=updated.outputs["marked"],
        evidence=check.outputs["complete"],
        keep=updated.outputs["new_keep"],
        check=check.outputs["check"],
        record=check.outputs["record"],
    )
