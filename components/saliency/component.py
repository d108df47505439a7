"""KFP interface of the saliency room."""

from kfp import dsl
from medmark.components.base.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def extract_saliency_component(
    release: dsl.Input[dsl.Dataset],
    release_digest: str,
    surrogates: dsl.Input[dsl.Model],
    maps: dsl.Output[dsl.Artifact],
):
    """Extracts EigenCAM maps with the first surrogate.

    Args:
        release: the clean release.
        release_digest: its digest; part of the cache key.
        surrogates: benign classifiers.
        maps: folder with ``saliency.parquet``.
    """
    from medmark.components.lineage.step import step
    from medmark.components.saliency.extract import extract
    from medmark.components.surrogate.models import load_models

    with step("extract saliency", inputs={"release": release, "surrogates": surrogates}, outputs={"maps": maps}):
        first = load_models(surrogates.path)[0][0]["file"]
        extract(release.path, f"{surrogates.path}/{first}", maps.path)
    maps.metadata.update(release_digest=release_digest)
