"""KFP interface of the surrogate room."""

from kfp import dsl
from medmark.components.platform.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train_classifiers_component(
    release: dsl.Input[dsl.Dataset], release_digest: str, configs: list, models: dsl.Output[dsl.Model]
):
    """Trains classifiers on a release.

    Args:
        release: the release.
        release_digest: its digest; part of the cache key, which ignores content.
        configs: one dictionary of ``TrainConfig`` a model.
        models: folder with ``models.json`` and safetensors.
    """
    import time

    from medmark.components.platform.parameters import whole
    from medmark.components.surrogate.panel import train_models
    from medmark.components.surrogate.training import TrainConfig

    started = time.monotonic()
    train_models(release.path, models.path, configs=[TrainConfig(**config) for config in whole(configs)])
    models.metadata.update(seconds=time.monotonic() - started, release_digest=release_digest)
