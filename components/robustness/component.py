"""KFP component of the robustness room: attacks a mark."""

from kfp import dsl
from medmark.components.base.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def stress_component(
    release: dsl.Input[dsl.Dataset],
    evidence: dsl.Input[dsl.Artifact],
    marked_configs: list,
    attacks: list,
    seed: int,
    curves: dsl.Output[dsl.Artifact],
) -> float:
    """Trains models on a marked release as adversaries would, attacks the mark in them, and measures what is left of it.

    Args:
        release: the marked release.
        evidence: its evidence; private.
        marked_configs: one dictionary per adversary, with the fields of
            ``medmark.components.surrogate.training.TrainConfig``.
        attacks: names of ``medmark.components.robustness.attacks``; all of them when empty.
        seed: seed of all that the attacks draw.
        curves: folder with ``stress.json``, ``stress.csv`` and ``stress.svg``; private.

    Returns:
        Smallest watermark success rate (0 to 1) under any attack that costs the adversary at most 2 points of accuracy.
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
    return float(table[table.accuracy_before - table.accuracy <= 0.02].wsr.min())
