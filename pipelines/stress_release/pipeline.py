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
    """Attacks a mark in models that are trained on its release, as ``medmark stress`` does.

    Args:
        release_uri: the marked release: ``s3://bucket/prefix/<digest>``, or a folder that the steps can reach.
        evidence_uri: its evidence, likewise.
        release_digest: SHA-256 of its ``release.json``.
        evidence_digest: SHA-256 of its ``evidence.json``.
        marked_configs: how adversaries train, see ``stress_component``.
        seed: seed of all that the attacks draw.
        attacks: names of ``medmark.components.robustness.attacks``; all of them when empty.
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
