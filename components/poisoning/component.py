"""KFP interface of the poisoning room."""

from kfp import dsl
from medmark.components.platform.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def poison_component(
    release: dsl.Input[dsl.Dataset],
    generator: dsl.Input[dsl.Model],
    control: dsl.Input[dsl.Model],
    maps: dsl.Input[dsl.Artifact],
    version: str,
    queries: int,
    seed: int,
    marked: dsl.Output[dsl.Dataset],
    evidence: dsl.Output[dsl.Artifact],
) -> str:
    """Writes the marked release and its private evidence.

    Args:
        release: the clean release.
        generator: of the mark.
        control: another generator.
        maps: saliency maps.
        version: of the marked release.
        queries: images that suspects are asked about, at most.
        seed: of their choice.
        marked: the public release.
        evidence: private; keep it apart from the release.

    Returns:
        Digest of the marked release.
    """
    import time

    from medmark.components.poisoning.poison import poison

    started = time.monotonic()
    inputs = (release.path, generator.path, control.path, maps.path, marked.path, evidence.path)
    digest = poison(*inputs, version=version, queries=queries, seed=seed)["release_digest"]
    marked.metadata.update(seconds=time.monotonic() - started, digest=digest)
    return digest
