import pytest
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.poisoning import lpips as module
from medmark.components.poisoning.quality import likeness, sum_up
from safetensors.torch import save_file
from torchvision.models import vgg16

CHANNELS = (64, 128, 256, 512, 512)


def write_weights(path, **changes):
    """Random weights in the form that users supply."""
    torch.manual_seed(0)
    tensors = {f"features.{name}": t for name, t in vgg16(init_weights=False).features.state_dict().items()}
    tensors |= {f"lpips.{i}": torch.rand(1, c, 1, 1) for i, c in enumerate(CHANNELS)}
    save_file({name: t.contiguous() for name, t in (tensors | changes).items() if t is not None}, str(path))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("lpips") / "lpips.safetensors"
    write_weights(path)
    return path


@pytest.fixture
def images():
    rng = torch.Generator().manual_seed(0)
    clean = torch.rand(48, 48, generator=rng).numpy()
    return clean, (clean * 0.9).astype("float32")


def test_without_weights_lpips_is_not_made_up(images, monkeypatch):
    monkeypatch.delenv(module.VARIABLE, raising=False)
    row = likeness(*images)
    assert row["lpips"] is None and 0 < row["ssim"] < 1
    assert sum_up([row])["lpips"] is None and module.VARIABLE in sum_up([row])["lpips_reason"]


def test_lpips_is_what_its_definition_says(images, weights, monkeypatch):
    monkeypatch.setenv(module.VARIABLE, str(weights))
    row = likeness(*images)
    tensors = module.read_tensors(weights)
    network = vgg16(init_weights=False).features
    network.load_state_dict({n.removeprefix("features."): t for n, t in tensors.items() if n.startswith("features.")})
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected, x = 0.0, [(torch.from_numpy(i).expand(1, 3, -1, -1) - mean) / std for i in images]
    taps = {3: 0, 8: 1, 15: 2, 22: 3, 29: 4}
    with torch.no_grad():
        for n, layer in enumerate(network.eval()):
            x = [layer(i) for i in x]
            if n in taps:
                unit = [i / i.norm(dim=1, keepdim=True) for i in x]
                expected += float((((unit[0] - unit[1]) ** 2) * tensors[f"lpips.{taps[n]}"]).sum(dim=1).mean())
    assert row["lpips"] == pytest.approx(expected, rel=1e-3)
    assert likeness(images[0], images[0])["lpips"] == pytest.approx(0, abs=1e-6)
    total = sum_up([row, row])
    assert total["lpips"] == pytest.approx(expected, rel=1e-3) == total["worst"]["lpips"]
    assert total["lpips_reason"] is None


@pytest.mark.parametrize(
    "changes",
    [{"lpips.2": None}, {"lpips.0": torch.zeros(1, 3, 1, 1)}, {"more": torch.zeros(1)}, {"features.0.bias": None}],
)
def test_other_weights_are_refused(images, tmp_path, monkeypatch, changes):
    write_weights(tmp_path / "w.safetensors", **changes)
    monkeypatch.setenv(module.VARIABLE, str(tmp_path / "w.safetensors"))
    with pytest.raises(MedmarkError, match="not LPIPS's weights"):
        likeness(*images)


def test_pickled_weights_are_never_opened(images, tmp_path, monkeypatch):
    torch.save({"lpips.0": torch.zeros(1)}, tmp_path / "w.pt")
    monkeypatch.setenv(module.VARIABLE, str(tmp_path / "w.pt"))
    with pytest.raises(MedmarkError, match="convert the weights to safetensors"):
        likeness(*images)
