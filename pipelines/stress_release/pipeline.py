"""The DAG of stress_release."""

from kfp import dsl
from medmark.components.delivery.component import fetch_evidence_component, fetch_release_component
from medmark.components.robustness.component import stress_component
from medmark.pipelines.kubernetes_secrets import EVIDENCE, RELEASES, give


@dsl.pipeline(
    name="stress-release",
    description="Attacks models trained on a marked release: what is left of the mark, and what that costs the adversary.",
)
def stress_release(
    release_uri: str,
    evidence_uri: str,
    release_digest: str,
    evidence_digest: str,
    marked_configs: list,
    seed: int,
    attacks: list = [],  # noqa: B006
) -> dsl.Artifact:
    """See ``medmark stress``.

    Args:
        release_uri, evidence_uri: the marked release and its evidence: ``s3://bucket/prefix/<digest>``, or folders that the
            steps can reach.
        release_digest, evidence_digest: SHA-256 of ``release.json`` and ``evidence.json``.
        victim_configs: how adversaries train: dictionaries of ``TrainConfig``.
        seed: of all that attacks draw.
        attacks: names; all when empty.
    """
    release = fetch_release_component(uri=release_uri, digest=release_digest)
    release.set_display_name("fetch release")
    give(release, RELEASES)
    evidence = fetch_evidence_component(uri=evidence_uri, digest=evidence_digest)
    evidence.set_display_name("fetch evidence")
    give(evidence, EVIDENCE)
    attacked = stress_component(
        release=release.outputs["release"],
        evidence=evidence.outputs["evidence"],
        marked_configs=marked_configs,
        attacks=attacks,
        seed=seed,
    )
    attacked.set_display_name("attack")
    return attacked.outputs["curves"]
