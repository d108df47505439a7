"""KFP component of the saliency room: extracts EigenCAM maps."""

from kfp import dsl
from medmark.components.base.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def extract_saliency_component(
    release: dsl.Input[dsl.Dataset],
    surrogates: dsl.Input[dsl.Model],
    maps: dsl.Output[dsl.Artifact],
) -> None:
    """Extracts a saliency map of every image with the first surrogate (EigenCAM).

    Args:
        release: the clean release, or what ``prepare_component`` made of it at the surrogates' size.
        surrogates: models of ``train_classifiers_component``; only the first one is used.
        maps: folder with ``saliency.parquet`` (one map per image) and ``saliency.json``.
    """
    from medmark.components.dataset.prepared import is_prepared
    from medmark.components.lineage.step import pass_on, said_by, step
    from medmark.components.saliency.extract import extract
    from medmark.components.surrogate.models import load_models

    with step("extract saliency", inputs={"release": release, "surrogates": surrogates}, outputs={"maps": maps}):
        first = load_models(surrogates.path)[0][0]["file"]
        extract(release.path, f"{surrogates.path}/{first}", maps.path)
    if is_prepared(release.path):
        pass_on(said_by({"prepare": release}), maps)
