"""Define the pipeline audit_suspect."""

from typing import NamedTuple

from kfp import dsl
from medmark.components.delivery.component import fetch_evidence_component
from medmark.components.verification.component import ask_suspect_component, audit_component
from medmark.pipelines.kubernetes_secrets import EVIDENCE, MLFLOW, RELEASES, SUSPECT, give
from medmark.pipelines.train_each import SIDE_BY_SIDE


class Made(NamedTuple):
    """Outputs of the pipeline; private."""

    audit: dsl.Artifact
    report: dsl.HTML


@dsl.pipeline(
    name="ask-and-decide", description="Asks each suspect in a step of its own, and decides about all of them."
)
def ask_and_decide(
    evidence: dsl.Input[dsl.Artifact],
    suspects: list,
    among: list,
    contract: dict,
    connection: dict,
    commitment: dict,
) -> Made:
    """Asks suspects side by side.

    A pipeline, because the list that a loop goes over is not to be had in it: KFP's driver takes it away.

    Args:
        evidence: of the release.
        suspects, contract, connection, commitment: see :func:`audit_suspect`.
        among: the suspects once more.
    """
    with dsl.ParallelFor(suspects, parallelism=SIDE_BY_SIDE, name="each suspect") as suspect:
        asked = ask_suspect_component(
            evidence=evidence,
            suspect=suspect,
            among=among,
            contract=contract,
            connection=connection,
            commitment=commitment,
        )
        asked.set_display_name("ask a suspect")
        give(asked, RELEASES, SUSPECT)  # a step that questions hostile models cannot open the evidence's bucket
        asked.set_caching_options(False)  # the model behind a URL may have changed
    audit = audit_component(
        evidence=evidence,
        suspects=among,
        contract=contract,
        connection=connection,
        commitment=commitment,
        answers=dsl.Collected(asked.outputs["answers"]),
    )
    audit.set_display_name("audit")
    give(audit, RELEASES, SUSPECT, MLFLOW)
    audit.set_caching_options(False)  # it opens the models once more, to say what they are
    return Made(audit=audit.outputs["audit"], report=audit.outputs["report"])


@dsl.pipeline(
    name="audit-suspect",
    description="Questions suspect models with the private evidence of a release, and says which were trained on it.",
)
def audit_suspect(
    evidence_uri: str,
    evidence_digest: str,
    suspects: list,
    contract: dict = {},  # noqa: B006
    connection: dict = {},  # noqa: B006
    commitment: dict = {},  # noqa: B006
) -> Made:
    """Questions suspect models with the evidence of a release, as ``medmark audit`` does.

    Args:
        evidence_uri: complete evidence of a release: ``s3://bucket/prefix/<digest>``, or a folder that the steps can reach.
        evidence_digest: SHA-256 of its ``evidence.json``.
        suspects: the models: ``http(s)://host/v2/models/NAME``, ``models:/NAME/VERSION``, or ONNX files that the step can reach
            or that are stored under ``s3://`` in a bucket that the credentials for releases open.
        contract: what the suspects expect and answer, see ``audit_component``.
        connection: how to question the suspects and what they may use up, see ``audit_component``.
        commitment: texts of the commitment, its signer's public key and its time stamp, see ``audit_component``.
    """
    evidence = fetch_evidence_component(uri=evidence_uri, digest=evidence_digest)
    evidence.set_display_name("fetch evidence")
    give(evidence, EVIDENCE)
    decided = ask_and_decide(
        evidence=evidence.outputs["evidence"],
        suspects=suspects,
        among=suspects,
        contract=contract,
        connection=connection,
        commitment=commitment,
    )
    return Made(audit=decided.outputs["audit"], report=decided.outputs["report"])
