"""KFP components of the lineage room: sign what a run made, and check a chain of releases."""

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
    subject: dsl.Input[dsl.Artifact],
    evidence: dsl.Input[dsl.Artifact],
    record: dsl.Input[dsl.Artifact],
    checked: dict,
    sign: bool,
    signatures: dsl.Output[dsl.Artifact],
    parent: dsl.Input[dsl.Dataset] = None,
    publish_weak: bool = False,
) -> None:
    """Commits to the evidence of a release or model, or certifies a release's locks, and signs the lineage.

    The step takes the text of the signing key from its environment variable MEDMARK_SIGNING_KEY and the passphrase from
    MEDMARK_KEY_PASSPHRASE.

    Args:
        subject: the marked or locked release, or its manifest, from ``prepare_component``, or the marked model. No image is read:
            ``publish_component`` checks them before a release goes out.
        evidence: its complete evidence, from the checking step; private.
        record: how it was made, from the checking step.
        checked: what the checking step returned; nothing is signed unless its ``verdict`` lets it go out.
        sign: whether to sign at all.
        signatures: folder with ``commitment.json`` and, private, ``opening.json``, or with ``certificates.json`` of locks, and
            with ``lineage.json``; empty if nothing is signed.
        parent: the previous marked release, or its manifest, if this one updates it.
        publish_weak: whether a locked release may go out whose locks are weak.
    """
    from pathlib import Path

    from medmark.components.delivery.run_outputs import may_go_out
    from medmark.components.lineage.keys import private_from_environment
    from medmark.components.lineage.signing import sign_run
    from medmark.components.locking.certificate import certifier

    if not sign or not may_go_out(checked["verdict"], weak=publish_weak):
        Path(signatures.path).mkdir(parents=True)
        return
    sign_run(
        subject.path,
        evidence.path,
        private_from_environment(),
        signatures.path,
        record_file=record.path,
        parent=parent.path if parent else None,
        certify=certifier(evidence.path),
    )
