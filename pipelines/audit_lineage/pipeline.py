"""The DAG of audit_lineage."""

from typing import NamedTuple

from kfp import dsl
from medmark.components.lineage.component import audit_lineage_component
from medmark.pipelines.kubernetes_secrets import RELEASES, give


class Made(NamedTuple):
    """What the pipeline gives back; public."""

    result: dsl.Artifact
    report: dsl.HTML


@dsl.pipeline(
    name="audit-lineage",
    description="Checks a published release and all releases before it: digests, signatures, commitments, lists of changes.",
)
def audit_lineage(release_uri: str, public_key: str, timestamp_roots: str = "") -> Made:
    """See ``medmark lineage verify``.

    Args:
        release_uri: ``s3://bucket/prefix/<digest>``, or a folder as the cluster can reach it.
        public_key: the owner's ``medmark.pub``, its text.
        timestamp_roots: PEM text of the time stamp authority's roots; empty: time stamps are not checked.
    """
    audit = audit_lineage_component(release_uri=release_uri, public_key=public_key, timestamp_roots=timestamp_roots)
    audit.set_display_name("audit lineage")
    give(audit, RELEASES)
    audit.set_caching_options(False)  # the cache key does not see what lies behind the address
    return Made(result=audit.outputs["result"], report=audit.outputs["report"])
