import pytest
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.segmentation.networks import ARCHITECTURES, build_segmenter, load_segmenter, save_segmenter
from medmark.components.surrogate.networks import build, save_classifier
from monai.networks.nets.unet import UNet
from safetensors.torch import save_file


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_architecture_answers_a_logit_a_pixel_and_comes_back(architecture, channels, tmp_path):
    model = build_segmenter(architecture, channels=channels, size=64, seed=4).eval()
    images = torch.rand(2, channels, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(images)
        assert logits.shape == (2, 1, 64, 64) and torch.isfinite(logits).all()
        save_segmenter(model, tmp_path / "s.safetensors")
        again = load_segmenter(tmp_path / "s.safetensors")
        assert torch.equal(again(images), logits)
        other = build_segmenter(architecture, channels=channels, size=64, seed=5).eval()
        assert not torch.equal(other(images), logits)


def test_weights_of_monais_whole_u_net_are_still_read(tmp_path):
    whole = UNet(2, 1, 1, (16, 32, 64, 128), (2, 2, 2), num_res_units=2, norm="batch").eval()
    save_file(whole.state_dict(), tmp_path / "monai.safetensors")
    model = build_segmenter("unet", channels=1, size=64, seed=0, weights=tmp_path / "monai.safetensors").eval()
    save_segmenter(model, tmp_path / "s.safetensors")
    images = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(load_segmenter(tmp_path / "s.safetensors")(images), whole((images - 0.5) / 0.25))


def test_what_cannot_be_built_is_refused(tmp_path):
    with pytest.raises(MedmarkError, match="unknown architecture: 'sam'"):
        build_segmenter("sam", channels=1, size=64, seed=0)
    for channels, size in ((2, 64), (1, 60), (1, 16), (1, 4096)):
        with pytest.raises(MedmarkError, match="do not fit a segmenter"):
            build_segmenter("unet", channels=channels, size=size, seed=0)
    save_segmenter(build_segmenter("unet", channels=1, size=64, seed=0), tmp_path / "s.safetensors")
    with pytest.raises(MedmarkError, match="weights do not fit segresnet"):
        build_segmenter("segresnet", channels=1, size=64, seed=0, weights=tmp_path / "s.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"no tensors")
    with pytest.raises(MedmarkError, match="not weights that medmark wrote"):
        load_segmenter(tmp_path / "x.safetensors")
    save_classifier(build("small_cnn", num_classes=2, size=64, seed=0), tmp_path / "c.safetensors")
    with pytest.raises(MedmarkError, match="no segmenter"):
        load_segmenter(tmp_path / "c.safetensors")


def test_an_installed_package_adds_a_network(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\ndef make(channels, size):\n    return nn.Conv2d(channels, 1, 3, padding=1)\n"
    )
    package = tmp_path / "mine-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[medmark.segmenters]\nour_network = mine:make\n")
    with pytest.raises(MedmarkError, match="unknown architecture: 'our_network'"):
        build_segmenter("our_network", channels=1, size=64, seed=0)
    monkeypatch.syspath_prepend(tmp_path)
    model = build_segmenter("our_network", channels=1, size=64, seed=0)
    save_segmenter(model, tmp_path / "s.safetensors")
    assert load_segmenter(tmp_path / "s.safetensors").architecture == "our_network"
    with pytest.raises(MedmarkError, match="unknown architecture: 'mine:make'.*our_network"):
        build_segmenter("mine:make", channels=1, size=64, seed=0)
