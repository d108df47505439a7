"""KFP component of the surrogate room: trains classifiers."""

from kfp import dsl
from medmark.components.base.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train_classifiers_component(
    release: dsl.Input[dsl.Dataset],
    configs: list,
    secrets: dsl.Input[dsl.Artifact],
    models: dsl.Output[dsl.Model],
) -> None:
    """Trains classifiers on a release.

    Args:
        release: the release to train on, clean or marked.
        configs: one dictionary per model, with the fields of ``medmark.components.surrogate.training.TrainConfig``. A seed may
            refer to the run's secrets, as ``{"$secret": "models_seed", "plus": 100}``.
        secrets: the run's secrets, from ``draw_secrets_component``.
        models: folder with one ``.safetensors`` file per model and ``models.json``, which lists configurations, training
            history and test accuracy.
    """
    from medmark.components.base.parameters import whole
    from medmark.components.evidence.secrets import read_secrets, resolved
    from medmark.components.lineage.step import step
    from medmark.components.surrogate.models import train_models
    from medmark.components.surrogate.training import TrainConfig

    inputs, parameters = {"release": release, "secrets": secrets}, {"configs": whole(configs)}
    with step("train classifiers", inputs=inputs, outputs={"models": models}, parameters=parameters):
        known = resolved(configs, read_secrets(secrets.path))
        train_models(release.path, models.path, configs=[TrainConfig(**config) for config in known])
