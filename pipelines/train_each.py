"""Training lists of models in several steps, which run side by side on a cluster."""

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent
from medmark.components.surrogate.component import gather_models_component, train_classifiers_component
from medmark.pipelines.kubernetes_secrets import RUN, give

SIDE_BY_SIDE = 10  # arbitrary: steps of one loop that run at a time; kfp.local runs two


def train_each(what: str) -> GraphComponent:
    """Makes a pipeline that trains each group of classifiers in a step of its own, and puts all of them together.

    A pipeline, because ``kfp.local`` finds the list that a loop goes over only among the arguments of the loop's own pipeline.

    Args:
        what: is trained, in the plural.

    Returns:
        The pipeline. It takes ``release`` and ``secrets`` (see ``train_classifiers_component``) and ``groups``, lists of
        configurations, and returns the models.
    """

    @dsl.pipeline(name=f"train-{what.replace(' ', '-')}", description=f"Trains {what} in several steps.")
    def pipeline(release: dsl.Input[dsl.Dataset], groups: list, secrets: dsl.Input[dsl.Artifact]) -> dsl.Model:
        with dsl.ParallelFor(groups, parallelism=SIDE_BY_SIDE, name="each group") as configs:
            trained = train_classifiers_component(release=release, configs=configs, secrets=secrets)
            trained.set_display_name(f"train {what}")
            give(trained, RUN)
        gathered = gather_models_component(parts=dsl.Collected(trained.outputs["models"]))
        return gathered.set_display_name(f"gather {what}").outputs["models"]

    return pipeline
