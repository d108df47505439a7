"""KFP interface of the lineage room."""

from kfp import dsl
from medmark.components.base.image import IMAGE


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


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def sign_component(
    release: dsl.Input[dsl.Dataset],
    evidence: dsl.Input[dsl.Artifact],
    check: dsl.Input[dsl.Artifact],
    checked: dict,
    sign: bool,
    signatures: dsl.Output[dsl.Artifact],
    parent: dsl.Input[dsl.Dataset] = None,
):
    """Commits to the evidence of a release and signs its lineage.

    The key's text is taken from MEDMARK_SIGNING_KEY in the step's environment, its passphrase from MEDMARK_KEY_PASSPHRASE.

    Args:
        release: the marked release.
        evidence: its complete evidence.
        check: of the last step, with ``record.json``.
        checked: what the last step returned.
        sign: whether to; only if the verdict is ``owned``.
        signatures: folder with ``commitment.json``, ``lineage.json`` and, private, ``opening.json``; else empty.
        parent: of an update, the previous marked release.
    """
    from pathlib import Path

    from medmark.components.lineage.keys import private_from_environment
    from medmark.components.lineage.signing import sign_run

    if not sign or checked["verdict"] != "owned":
        Path(signatures.path).mkdir(parents=True)
        return
    record, before = Path(check.path, "record.json"), parent.path if parent else None
    sign_run(release.path, evidence.path, record, private_from_environment(), signatures.path, parent=before)
    signatures.metadata.update(release_digest=checked["release_digest"], evidence_digest=checked["evidence_digest"])
