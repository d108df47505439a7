"""KFP interface of the generator room."""

from kfp import dsl
from medmark.components.base.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train_generator_component(
    release: dsl.Input[dsl.Dataset],
    release_digest: str,
    surrogates: dsl.Input[dsl.Model],
    maps: dsl.Input[dsl.Artifact],
    target_class: str,
    config: dict,
    secrets: dsl.Input[dsl.Artifact],
    generator: dsl.Output[dsl.Model],
):
    """Trains a generator and chooses the images to mark.

    Args:
        release: the clean release.
        release_digest: its digest; part of the cache key.
        surrogates: panel of benign classifiers.
        maps: saliency maps.
        target_class: class that the mark stands for; the first class when empty.
        config: dictionary of ``GeneratorConfig``.
        secrets: of the run; key, weights and order follow from them.
        generator: folder with the generator and its selection; private.
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
    generator.metadata.update(release_digest=release_digest)
