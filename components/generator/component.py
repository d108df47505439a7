"""KFP component of the generator room: trains the generator of the mark."""

from kfp import dsl
from medmark.components.base.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train_generator_component(
    release: dsl.Input[dsl.Dataset],
    surrogates: dsl.Input[dsl.Model],
    maps: dsl.Input[dsl.Artifact],
    target_class: str,
    config: dict,
    secrets: dsl.Input[dsl.Artifact],
    generator: dsl.Output[dsl.Model],
) -> None:
    """Trains the generator of a mark and chooses the images to mark.

    Args:
        release: the clean release, or what ``prepare_component`` made of it at the marks' size.
        surrogates: benign models that the generator trains against, from ``train_classifiers_component``.
        maps: saliency maps, from ``extract_saliency_component``.
        target_class: name of the class that marked images are taken for; the release's first class when empty.
        config: dictionary with the fields of ``medmark.components.generator.train.GeneratorConfig``.
        secrets: the run's secrets, from ``draw_secrets_component``; key, weights and order follow from them.
        generator: folder with the generator, its key and the chosen images; private.
    """
    from medmark.components.base.parameters import whole
    from medmark.components.evidence.secrets import read_secrets
    from medmark.components.generator.train import GeneratorConfig, train_generator
    from medmark.components.lineage.step import step

    inputs = {"release": release, "surrogates": surrogates, "maps": maps}
    paths = [artifact.path for artifact in (*inputs.values(), generator)]
    parameters, own = {"target_class": target_class, "config": whole(config)}, GeneratorConfig.from_dict(whole(config))
    inputs["secrets"], outputs = secrets, {"generator": generator}
    with step("train generator", inputs=inputs, outputs=outputs, parameters=parameters, seed={"$secret": "seed"}):
        train_generator(*paths, target_class=target_class, config=own, seed=read_secrets(secrets.path).seed)
