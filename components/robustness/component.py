"""KFP interface of the robustness room."""

from kfp import dsl
from medmark.components.base.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def stress_component(
    release: dsl.Input[dsl.Dataset],
    evidence: dsl.Input[dsl.Artifact],
    release_digest: str,
    marked_configs: list,
    attacks: list,
    seed: int,
    curves: dsl.Output[dsl.Artifact],
) -> float:
    """Attacks models trained on a marked release.

    Args:
        release: the marked release.
        evidence: its private evidence.
        release_digest: its digest; part of the cache key, which ignores content.
        marked_configs: one dictionary of ``TrainConfig`` an adversary.
        attacks: names; all when empty.
        seed: of all that attacks draw.
        curves: folder with ``stress.json``, ``stress.csv`` and ``stress.svg``; private.

    Returns:
        Smallest success rate of the mark under any attack that costs an adversary at most 2 points of accuracy.
    """
    from medmark.components.base.parameters import whole
    from medmark.components.lineage.step import step
    from medmark.components.robustness.attacks import choose
    from medmark.components.robustness.stress import stress
    from medmark.components.surrogate.training import TrainConfig

    inputs, configs = {"marked": release, "evidence": evidence}, whole(marked_configs)
    parameters = {"marked_models": configs, "attacks": attacks}
    with step("stress", inputs=inputs, outputs={"curves": curves}, parameters=parameters, seed=seed):
        marked_models = [TrainConfig(**config) for config in configs]
        paths = (release.path, evidence.path, curves.path)
        table = stress(*paths, marked_models=marked_models, attacks=choose(attacks), seed=seed)
    curves.metadata.update(release_digest=release_digest)
    return float(table[table.accuracy_before - table.accuracy <= 0.02].wsr.min())
