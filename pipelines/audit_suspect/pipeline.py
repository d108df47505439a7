"""The DAG of audit_suspect."""

from typing import NamedTuple

from kfp import dsl
from medmark.components.verification.component import audit_component


class Made(NamedTuple):
    """What the pipeline gives back; private."""

    audit: dsl.Artifact
    report: dsl.HTML


@dsl.pipeline(
    name="audit-suspect",
    description="Questions suspect models with the private evidence of a release, and says which were trained on it.",
)
def audit_suspect(
    evidence_uri: str,
    suspects: list,
    contract: dict = {},  # noqa: B006
    connection: dict = {},  # noqa: B006
    commitment: dict = {},  # noqa: B006
) -> Made:
    """See ``medmark audit``.

    Args:
        evidence_uri: folder with the complete evidence of a release, as the cluster can reach it.
        suspects: ``http(s)://host/v2/models/NAME``, ``models:/NAME/VERSION`` or paths of ONNX files.
        contract: what the suspects expect and give: keyword arguments of ``Contract``.
        connection: how to talk to endpoints: keyword arguments of ``Connection``.
        commitment: texts of the commitment, its signer's public key and its time stamp, see ``audit_component``.
    """
    evidence = dsl.importer(artifact_uri=evidence_uri, artifact_class=dsl.Artifact, reimport=True)
    evidence.set_display_name("evidence")
    audit = audit_component(
        evidence=evidence.output, suspects=suspects, contract=contract, connection=connection, commitment=commitment
    )
    audit.set_display_name("audit")
    audit.set_caching_options(False)  # the cache key sees neither the evidence's content nor the model behind a URL
    return Made(audit=audit.outputs["audit"], report=audit.outputs["report"])
