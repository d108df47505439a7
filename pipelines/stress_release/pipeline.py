"""The DAG of stress_release."""

from kfp import dsl
from medmark.components.robustness.component import stress_component


@dsl.pipeline(
    name="stress-release",
    description="Attacks models trained on a marked release: what is left of the mark, and what that costs the thief.",
)
def stress_release(
    release_uri: str,
    evidence_uri: str,
    release_digest: str,
    victim_configs: list,
    seed: int,
    attacks: list = [],  # noqa: B006
) -> dsl.Artifact:
    """See ``medmark stress``.

    Args:
        release_uri, evidence_uri: folders of the marked release and its evidence, as the cluster can reach them.
        release_digest: digest of the release, so that the cache notices another.
        victim_configs: how thieves train: dictionaries of ``TrainConfig``.
        seed: of all that attacks draw.
        attacks: names; all when empty.
    """
    release = dsl.importer(artifact_uri=release_uri, artifact_class=dsl.Dataset, reimport=True)
    release.set_display_name("release")
    evidence = dsl.importer(artifact_uri=evidence_uri, artifact_class=dsl.Artifact, reimport=True)
    evidence.set_display_name("evidence")
    attacked = stress_component(
        release=release.output,
        evidence=evidence.output,
        release_digest=release_digest,
        victim_configs=victim_configs,
        attacks=attacks,
        seed=seed,
    )
    attacked.set_display_name("attack")
    return attacked.outputs["curves"]
