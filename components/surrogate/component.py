"""KFP components of the surrogate room: train classifiers, and put together what several steps trained."""

from typing import List  # noqa: UP035  # KFP knows no other

from kfp import dsl
from medmark.components.base.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train_classifiers_component(
    release: dsl.Input[dsl.Dataset],
    configs: list,
    models: dsl.Output[dsl.Model],
    secrets: dsl.Input[dsl.Artifact] = None,
) -> None:
    """Trains classifiers on a release.

    Args:
        release: the release to train on, clean or marked, or what ``prepare_component`` made of it at the models' size.
        configs: one dictionary per model, with the fields of ``medmark.components.surrogate.training.TrainConfig``. A seed may
            refer to the run's secrets, as ``{"$secret": "models_seed", "plus": 100}``.
        models: folder with one ``.safetensors`` file per model and ``models.json``, which lists configurations, training
            history and test accuracy.
        secrets: the run's secrets, from ``draw_secrets_component``, if a seed refers to them.
    """
    from medmark.components.base.parameters import whole
    from medmark.components.evidence.secrets import read_secrets, resolved
    from medmark.components.lineage.step import step
    from medmark.components.surrogate.models import train_models
    from medmark.components.surrogate.training import TrainConfig

    inputs, parameters = {"release": release}, {"configs": whole(configs)}
    inputs |= {"secrets": secrets} if secrets else {}
    with step("train classifiers", inputs=inputs, outputs={"models": models}, parameters=parameters):
        known = resolved(configs, read_secrets(secrets.path) if secrets else None)
        train_models(release.path, models.path, configs=[TrainConfig(**config) for config in known])


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def gather_models_component(
    parts: dsl.Input[List[dsl.Model]],  # noqa: UP006
    models: dsl.Output[dsl.Model],
) -> None:
    """Puts models that were trained in steps of their own into one folder, and passes on what those steps said.

    Args:
        parts: folders of ``train_classifiers_component``, trained on one release.
        models: folder with all models, as of ``train_classifiers_component``.
    """
    from medmark.components.lineage.step import pass_on, said_by, step
    from medmark.components.surrogate.models import gather_models

    inputs = {f"models_{number}": part for number, part in enumerate(parts)}
    with step("gather models", inputs=inputs, outputs={"models": models}):
        gather_models([part.path for part in parts], models.path)
    said = list(said_by(inputs).values())
    models.metadata["seconds"] += sum(one.pop("seconds") for one in said)
    pass_on({one["lineage"]["run"]["runId"]: one for one in said}, models)
