"""KFP components of the saliency room: EigenCAM maps of medmark's own surrogate, and of a model of yours."""

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


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def explain_model_component(
    images: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    architecture: str,
    contract: dict,
    maps: dsl.Output[dsl.Artifact],
) -> None:
    """Extracts saliency maps of your images with a convolutional model of yours (EigenCAM).

    The model's file is not trusted: an ONNX file is opened in a process of its own, within limits.

    Args:
        images: a release, what ``prepare_component`` made of one, or a folder with image files; from another step or imported.
        model: an ONNX file, a safetensors file, or a folder with one of them; from another step or imported.
        architecture: of safetensors that medmark did not write: a name in
            ``medmark.components.surrogate.networks.ARCHITECTURES``. Empty for others.
        contract: how the model wants its images: dictionary with the fields of ``medmark.components.suspects.contract.Contract``.
            What it answers does not matter. Safetensors that medmark did not write need ``size``; medmark's own need nothing.
        maps: folder with ``saliency.parquet`` (``image_id``, or a file's name in the folder, and a map of 32x32, a byte a value) and
            ``saliency.json``. ``poison_component`` takes the maps of a release.
    """
    from contextlib import closing

    from medmark.components.base.parameters import whole
    from medmark.components.lineage.step import step
    from medmark.components.saliency.foreign import Images, Network, Normalisation, explain
    from medmark.components.suspects.activations import open_convolution
    from medmark.components.suspects.contract import Contract
    from medmark.components.suspects.model_files import is_safetensors, model_file

    inputs, parameters = {"images": images, "model": model}, {"architecture": architecture, "contract": whole(contract)}
    with step("explain model", inputs=inputs, outputs={"maps": maps}, parameters=parameters):
        shown, wanted = Images(images.path), Contract.from_json(whole(contract))
        file = model_file(model.path, ".onnx", ".safetensors")
        if is_safetensors(file):
            network = Network(
                file,
                channels=shown.channels,
                architecture=architecture,
                size=wanted.size,
                normalisation=Normalisation(wanted.scale, wanted.mean, wanted.std),
            )
            explain(shown, network, maps.path)
        else:
            with closing(open_convolution(file, wanted, channels=shown.channels)) as opened:
                explain(shown, opened, maps.path)
