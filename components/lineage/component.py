"""KFP components of the lineage room: sign a release, and check a chain of releases."""

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
    """Checks a published release and all releases before it: digests, signatures, commitments and lists of changes.

    The step takes the credentials of an object store from its environment: MEDMARK_S3_ENDPOINT, MEDMARK_S3_ACCESS_KEY,
    MEDMARK_S3_SECRET_KEY.

    Args:
        release_uri: the newest release: ``s3://bucket/prefix/<digest>``, or a folder that the step can reach.
        public_key: text of the owner's ``medmark.pub``.
        timestamp_roots: PEM text of the root certificates of the time stamp authority; time stamps are not checked when empty.
        result: JSON file with every check; public.
        report: HTML file for people; public.

    Returns:
        ``holds`` or ``broken``.
    """
    from medmark.components.lineage.audit import audit_lineage

    return audit_lineage(release_uri, public_key, timestamp_roots, result.path, report.path)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def sign_component(
    release: dsl.Input[dsl.Dataset],
    evidence: dsl.Input[dsl.Artifact],
    record: dsl.Input[dsl.Artifact],
    checked: dict,
    sign: bool,
    signatures: dsl.Output[dsl.Artifact],
    parent: dsl.Input[dsl.Dataset] = None,
) -> None:
    """Commits to the evidence of a release and signs the release's lineage.

    The step takes the text of the signing key from its environment variable MEDMARK_SIGNING_KEY and the passphrase from
    MEDMARK_KEY_PASSPHRASE.

    Args:
        release: the marked release.
        evidence: its complete evidence, from the checking step; private.
        record: how the release was made, from the checking step.
        checked: what the checking step returned; nothing is signed unless its ``verdict`` is ``owned``.
        sign: whether to sign at all.
        signatures: folder with ``commitment.json``, ``lineage.json`` and, private, ``opening.json``; empty if nothing is signed.
        parent: the previous marked release, if this one updates it.
    """
    from pathlib import Path

    from medmark.components.lineage.keys import private_from_environment
    from medmark.components.lineage.signing import sign_run

    if not sign or checked["verdict"] != "owned":
        Path(signatures.path).mkdir(parents=True)
        return
    key, before = private_from_environment(), parent.path if parent else None
    sign_run(release.path, evidence.path, record.path, key, signatures.path, parent=before)
