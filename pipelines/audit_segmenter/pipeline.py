"""Define the pipeline audit_segmenter."""

from typing import NamedTuple

from kfp import dsl
from medmark.components.delivery.component import fetch_evidence_component
from medmark.components.segmentation.component import audit_segmenter_component
from medmark.pipelines.kubernetes_secrets import EVIDENCE, RELEASES, SUSPECT, give


class Made(NamedTuple):
    """Outputs of the pipeline; private."""

    audit: dsl.Artifact
    report: dsl.HTML


@dsl.pipeline(
    name="audit-segmenter",
    description="Questions suspects that segment with the private evidence of a marked segmenter, and says which show its payload.",
)
def audit_segmenter(
    evidence_uri: str,
    evidence_digest: str,
    suspects: list,
    contract: dict = {},  # noqa: B006
    connection: dict = {},  # noqa: B006
    commitment: dict = {},  # noqa: B006
) -> Made:
    """Questions suspects that segment, as ``medmark audit-segmenter`` does.

    Args:
        evidence_uri: complete evidence of a marked segmenter: ``s3://bucket/prefix/<digest>``, or a folder that the steps can reach.
        evidence_digest: SHA-256 of its ``evidence.json``.
        suspects: the models, see ``audit_suspect``.
        contract: what the suspects expect and answer, see ``audit_segmenter_component``.
        connection: how to question the suspects and what they may use up, see ``audit_segmenter_component``.
        commitment: texts of the commitment, its signer's public key and its time stamp, see ``audit_segmenter_component``.
    """
    evidence = fetch_evidence_component(uri=evidence_uri, digest=evidence_digest)
    evidence.set_display_name("fetch evidence")
    give(evidence, EVIDENCE)
    audit = audit_segmenter_component(
        evidence=evidence.outputs["evidence"],
        suspects=suspects,
        contract=contract,
        connection=connection,
        commitment=commitment,
    )
    audit.set_display_name("audit")
    give(audit, RELEASES, SUSPECT)  # the step that questions hostile models cannot open the evidence's bucket
    audit.set_caching_options(False)  # evidence or the model behind a URL may have changed
    return Made(audit=audit.outputs["audit"], report=audit.outputs["report"])
