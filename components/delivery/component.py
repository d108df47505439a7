"""KFP interface of the platform room: secrets are drawn, what a run starts from comes out of an object store, what it made goes
into one.

The steps that fetch and publish take the store's credentials from their environment: MEDMARK_S3_ENDPOINT, MEDMARK_S3_EVIDENCE_ENDPOINT and so on.
"""

from kfp import dsl
from medmark.components.base.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def draw_secrets_component(seed: str, patients: dict, secrets: dsl.Output[dsl.Artifact]):
    """Draws what nobody may guess.

    Args:
        seed: all but the key of the pseudonyms follows from it, and it stands in the step's log; empty: everything is drawn.
        patients: ``file`` with that key, as the step can reach it, and ``state``, another text whenever that changes; empty: it is
            drawn.
        secrets: one file; private.
    """
    from medmark.components.evidence.secrets import draw_secrets
    from medmark.components.lineage.step import step

    with step("draw secrets", inputs={}, outputs={"secrets": secrets}):
        draw_secrets(secrets.path, int(seed) if seed else None, patients.get("file"))


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def fetch_release_component(uri: str, digest: str, release: dsl.Output[dsl.Dataset]):
    """Brings a release.

    Args:
        uri: ``s3://bucket/prefix/<digest>``, or a folder that the step can reach.
        digest: of the release.
        release: the release.
    """
    from medmark.components.delivery.passing import take
    from medmark.components.delivery.publish import RELEASE

    take(RELEASE, uri, digest, release.path)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def fetch_evidence_component(uri: str, digest: str, evidence: dsl.Output[dsl.Artifact]):
    """Brings evidence.

    Args:
        uri: ``s3://bucket/prefix/<digest>``, or a folder that the step can reach.
        digest: SHA-256 of its ``evidence.json``.
        evidence: private.
    """
    from medmark.components.delivery.passing import take
    from medmark.components.delivery.publish import EVIDENCE

    take(EVIDENCE, uri, digest, evidence.path)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def fetch_previous_component(
    release_uri: str,
    evidence_uri: str,
    keep_uri: str,
    release_digest: str,
    evidence_digest: str,
    keep_digest: str,
    release: dsl.Output[dsl.Dataset],
    evidence: dsl.Output[dsl.Artifact],
    keep: dsl.Output[dsl.Artifact],
):
    """Brings all that an update starts from.

    Args:
        release_uri, evidence_uri, keep_uri: ``s3://bucket/prefix/<digest>``, or folders that the step can reach.
        release_digest, evidence_digest, keep_digest: SHA-256 of ``release.json``, ``evidence.json`` and ``keep.json``.
        release: the previous marked release.
        evidence: its evidence; private.
        keep: what was kept with it; private.
    """
    from medmark.components.delivery.passing import take
    from medmark.components.delivery.publish import EVIDENCE, KEEP, RELEASE

    take(RELEASE, release_uri, release_digest, release.path)
    take(EVIDENCE, evidence_uri, evidence_digest, evidence.path)
    take(KEEP, keep_uri, keep_digest, keep.path)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def publish_component(
    release: dsl.Input[dsl.Dataset],
    evidence: dsl.Input[dsl.Artifact],
    keep: dsl.Input[dsl.Artifact],
    check: dsl.Input[dsl.Artifact],
    signatures: dsl.Input[dsl.Artifact],
    publish_uri: str,
    publish_evidence_uri: str,
    sign: bool,
    submission: dict,
) -> str:
    """Publishes what a run made, and writes the record of its submission.

    Args:
        release: the marked release.
        evidence: its complete evidence.
        keep: what was kept with it.
        check: of the last step; its ``verdict.json`` must say ``owned``.
        signatures: of the signing step.
        publish_uri: where the release goes, ``s3://bucket/prefix``.
        publish_evidence_uri: where evidence and keep go, in another bucket.
        sign: whether there are signatures.
        submission: what is recorded; nothing when empty.

    Returns:
        Digest of the release; empty if nothing changed.
    """
    import json
    from pathlib import Path

    from medmark.components.base.parameters import whole
    from medmark.components.delivery.passing import publish_run
    from medmark.components.storage.store import Store

    digest = publish_run(
        json.loads(Path(check.path, "verdict.json").read_bytes()),
        release.path,
        evidence.path,
        keep.path,
        signatures_dir=signatures.path if sign else None,
        releases=publish_uri,
        evidence=publish_evidence_uri,
        store=Store.from_environment(),
        evidence_store=Store.from_environment("evidence"),
        submission=whole(submission),
    )
    return digest or ""
