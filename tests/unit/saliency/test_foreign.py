"""EigenCAM of models that medmark did not train, through the component that pipelines use."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from kfp import dsl
from medmark.components.base.digests import file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.arrays import load_arrays
from medmark.components.dataset.codecs import encode_png
from medmark.components.dataset.release import Release
from medmark.components.saliency.component import explain_model_component
from medmark.components.saliency.extract import load_saliency, saliency_maps, stack_saliency
from medmark.components.surrogate.networks import build, load_classifier
from safetensors.torch import save_file
from torch import nn


def explained(images, model, folder, architecture="", **contract):
    """Maps by id, of artifacts without metadata."""
    maps = dsl.Artifact(name="maps", uri=str(folder), metadata={})
    given = {"images": dsl.Dataset(uri=str(images)), "model": dsl.Model(uri=str(model))}
    explain_model_component.python_func(**given, architecture=architecture, contract=contract, maps=maps)
    return load_saliency(folder)


def export(network, path, channels=1):
    """With PyTorch's older exporter, which takes a twentieth of the time; other tests have files of the newer one."""
    example, names = (torch.zeros(2, channels, 64, 64),), {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}
    torch.onnx.export(network.eval(), example, str(path), dynamo=False, **names)
    return path


def weights_of(classifier, path):
    """As another library saves them: under the network's own names, with nothing about it."""
    save_file({name: tensor.contiguous() for name, tensor in classifier.network.state_dict().items()}, str(path))


def alike(maps, expected):
    """Smallest correlation of two sets of maps, (N, 1, 32, 32)."""
    pairs = zip(maps.flatten(1).numpy(), expected.flatten(1).numpy(), strict=True)
    return min(np.corrcoef(a, b)[0, 1] for a, b in pairs)


def test_one_network_in_three_formats_has_the_same_maps(release, surrogates, tmp_path):
    own = surrogates / "surrogate-0.safetensors"
    classifier, arrays = load_classifier(own), load_arrays(Release(release), size=64)
    expected = saliency_maps(classifier, arrays.images)
    (tmp_path / "mine").mkdir()
    export(classifier, tmp_path / "mine" / "mine.onnx")  # a folder, because its weights are beside it
    weights_of(classifier, tmp_path / "foreign")
    of_onnx = explained(release, tmp_path / "mine", tmp_path / "onnx")
    of_own = explained(release, own, tmp_path / "own")
    same = {"size": 64, "mean": 0.5, "std": 0.25}
    of_foreign = explained(release, tmp_path / "foreign", tmp_path / "weights", "small_cnn", **same)
    for maps in (of_onnx, of_own, of_foreign):
        assert alike(stack_saliency(maps, arrays.image_ids), expected) > 0.999
    said = json.loads((tmp_path / "own" / "saliency.json").read_bytes())
    assert (said["release_digest"], said["model_sha256"]) == (Release(release).digest, file_sha256(own))


@pytest.mark.parametrize("architecture", ["resnet_tiny", "mobilenet_v3_small"])
def test_the_layer_is_found_in_networks_with_branches(architecture, tmp_path):
    """Sums of residual blocks, squeezing convolutions of one position, and a colour network that is shown grey files."""
    network = build(architecture, num_classes=3, size=64, seed=2, channels=3).eval()
    grey = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    (tmp_path / "files" / "deep").mkdir(parents=True)
    for number, pixels in enumerate(grey):
        (tmp_path / "files" / "deep" / f"{number}.png").write_bytes(encode_png((pixels * 255).byte().numpy()))
    shown = ((grey * 255).byte().float() / 255)[:, None].repeat(1, 3, 1, 1)
    maps = explained(tmp_path / "files", export(network, tmp_path / "mine.onnx", channels=3), tmp_path / "maps")
    assert list(maps) == ["deep/0.png", "deep/1.png", "deep/2.png"]
    assert alike(torch.stack(list(maps.values())).float(), saliency_maps(network, shown)) > 0.999
    assert json.loads((tmp_path / "maps" / "saliency.json").read_bytes())["release_digest"] is None


def test_what_cannot_be_explained_is_refused(release, tmp_path):
    dense = export(nn.Sequential(nn.Flatten(), nn.Linear(64 * 64, 2)), tmp_path / "dense.onnx")
    with pytest.raises(MedmarkError, match="no convolution of images in ONNX model .*dense.onnx"):
        explained(release, dense, tmp_path / "maps")
    weights_of(build("small_cnn", num_classes=2, size=64, seed=0), tmp_path / "weights")
    with pytest.raises(MedmarkError, match="weights of an unknown network"):
        explained(release, tmp_path / "weights", tmp_path / "maps")
    with pytest.raises(MedmarkError, match="not the weights of resnet18"):
        explained(release, tmp_path / "weights", tmp_path / "maps", "resnet18", size=64)
    with pytest.raises(MedmarkError, match="2 ONNX or safetensors files in the model"):
        for name in ("a.onnx", "b.safetensors"):
            (tmp_path / "two").mkdir(exist_ok=True)
            (tmp_path / "two" / name).touch()
        explained(release, tmp_path / "two", tmp_path / "maps")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MedmarkError, match="no image in "):
        explained(tmp_path / "empty", dense, tmp_path / "maps")


def test_a_colour_image_in_a_grey_folder_is_refused(tmp_path):
    network = export(build("small_cnn", num_classes=2, size=64, seed=0), tmp_path / "grey.onnx")
    colours = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.png").write_bytes(encode_png(colours))
    with pytest.raises(MedmarkError, match="does not fit: its input has shape"):
        explained(tmp_path / "files", network, tmp_path / "maps")


def test_a_graph_without_sizes_is_read_at_its_last_convolution(tmp_path):
    """Height and width are free, so what follows at the same size is not known."""
    text = """<ir_version: 10, opset_import: ["" : 20]> agraph (float[N,1,H,W] x) => (float[N,2] y) {
        w = Constant<value = float[2,1,3,3] {0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0}>()  c = Conv<pads = [1, 1, 1, 1]>(x, w)  r = Relu(c)
        g = GlobalAveragePool(r)  y = Flatten(g) }"""
    onnx.save(onnx.parser.parse_model(text), str(tmp_path / "free.onnx"))
    (tmp_path / "files").mkdir()
    square = np.zeros((32, 32), np.uint8)
    square[8:16, 8:16] = 255
    (tmp_path / "files" / "a.png").write_bytes(encode_png(square))
    (the_map,) = explained(tmp_path / "files", tmp_path / "free.onnx", tmp_path / "maps", size=32).values()
    assert np.array_equal(the_map[0].numpy() > 127, square > 127)
    with pytest.raises(MedmarkError, match="leaves the size of its input free"):
        explained(tmp_path / "files", tmp_path / "free.onnx", Path(tmp_path / "again"))
