"""KFP interface of the lineage room."""

from kfp import dsl
from medmark.components.platform.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def audit_lineage_component(
    release_uri: str,
    public_key: str,
    timestamp_roots: str,
    result: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
) -> str:
    """Checks a release and all releases before it.

    Credentials of an object store are taken from the step's environment: MEDMARK_S3_ENDPOINT and so on.

    Args:
        release_uri: ``s3://bucket/prefix/<digest>``, or a folder that the step can reach.
        public_key: the owner's ``medmark.pub``, its text.
        timestamp_roots: PEM text of the time stamp authority's roots; empty: time stamps are not checked.
        result: one JSON file.
        report: one HTML file; shows nothing that is not public.

    Returns:
        ``holds`` or ``broken``.
    """
    from medmark.components.lineage.audit import audit_lineage

    return audit_lineage(release_uri, public_key, timestamp_roots, result.path, report.path)
