"""The DAG of audit_lineage."""

from typing import NamedTuple

from kfp import dsl
from medmark.components.lineage.component import audit_lineage_component
from medmark.pipelines.kubernetes_secrets import RELEASES, give


class Made(NamedTuple):
    """Outputs of the pipeline; public."""

    result: dsl.Artifact
    report: dsl.HTML


@dsl.pipeline(
    name="audit-lineage",
    description="Checks a published release and all releases before it: digests, signatures, commitments, lists of changes.",
)
def audit_lineage(release_uri: str, public_key: str, timestamp_roots: str = "") -> Made:
    """Checks a published release and all releases before it, as ``medmark lineage verify`` does.

    Args:
        release_uri: the newest release: ``s3://bucket/prefix/<digest>``, or a folder that the step can reach.
        public_key: text of the owner's ``medmark.pub``.
        timestamp_roots: PEM text of the root certificates of the time stamp authority; time stamps are not checked when empty.
    """
    audit = audit_lineage_component(release_uri=release_uri, public_key=public_key, timestamp_roots=timestamp_roots)
    audit.set_display_name("audit lineage")
    give(audit, RELEASES)
    audit.set_caching_options(False)  # what is stored at the address may have changed
    return Made(result=audit.outputs["result"], report=audit.outputs["report"])
