"""KFP interface of the surrogate room."""

from kfp import dsl
from medmark.components.base.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train_classifiers_component(
    release: dsl.Input[dsl.Dataset],
    release_digest: str,
    configs: list,
    secrets: dsl.Input[dsl.Artifact],
    models: dsl.Output[dsl.Model],
):
    """Trains classifiers on a release.

    Args:
        release: the release.
        release_digest: its digest; part of the cache key, which ignores content.
        configs: one dictionary of ``TrainConfig`` a model; may refer to secrets.
        secrets: of the run.
        models: folder with ``models.json`` and safetensors.
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
    models.metadata.update(release_digest=release_digest)
