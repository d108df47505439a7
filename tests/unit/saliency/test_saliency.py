import time

import numpy as np
import pytest
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.saliency.eigencam import leading_projection
from medmark.components.saliency.extract import extract, load_saliency, saliency_maps, stack_saliency
from medmark.components.saliency.grad_cam import EigenCAM
from medmark.components.surrogate.models import load_models
from medmark.components.surrogate.networks import build
from pytorch_grad_cam import EigenCAM as StockEigenCAM
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection


def correlation(a, b):
    return abs(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def lifelike(count):
    """(count, 512, 16, 16) activations such as a network's: a few smooth patterns and noise, rectified.

    Mean singular values relative to the first: 1, 0.56, 0.44; of a trained small_cnn 1, 0.28, 0.15 and of a trained
    resnet_tiny 1, 0.53, 0.46 on chest x-rays.
    """
    generator = torch.Generator().manual_seed(1)
    patterns = torch.nn.functional.interpolate(
        torch.randn(count, 6, 4, 4, generator=generator), size=16, mode="bicubic"
    )
    strengths = torch.tensor([1.0, 0.5, 0.4, 0.3, 0.25, 0.2])
    mixed = torch.einsum("cp,bphw->bchw", torch.randn(512, 6, generator=generator) * strengths, patterns)
    return torch.relu(mixed + 0.2 * torch.randn(mixed.shape, generator=generator)).contiguous()


def test_equal_to_the_stock_projection_on_lifelike_activations():
    activations = lifelike(8)
    ours, stock = leading_projection(activations).numpy(), get_2d_projection(activations.numpy().copy())
    assert min(correlation(a, b) for a, b in zip(ours, stock, strict=True)) >= 0.999


@pytest.mark.parametrize("shape", [(8, 512, 16, 16), (8, 32, 16, 16), (3, 128, 4, 4)])
def test_equal_to_the_stock_projection_up_to_sign(shape):
    activations = torch.relu(torch.randn(shape, generator=torch.Generator().manual_seed(1)))
    ours = leading_projection(activations).numpy()
    stock = get_2d_projection(activations.numpy().copy())
    assert min(correlation(a, b) for a, b in zip(ours, stock, strict=True)) >= 0.999


def test_equal_to_the_stock_class_on_a_network():
    model = build("small_cnn", num_classes=2, size=64, seed=0).eval()
    images = torch.rand(4, 1, 64, 64, generator=torch.Generator().manual_seed(2))
    with EigenCAM(model, [model.cam_layer]) as cam, StockEigenCAM(model, [model.cam_layer]) as stock:
        ours, theirs = cam(images, None), stock(images, None)
    assert ours.shape == theirs.shape == (4, 64, 64)
    for a, b in zip(ours, theirs, strict=True):
        assert correlation(a, b) >= 0.99  # stock clips what lies below zero before scaling, so only nearly linear


def test_nearly_equal_components_are_told_apart_or_taken_from_the_exact_method():
    generator = torch.Generator().manual_seed(4)
    left, right = torch.linalg.qr(torch.randn(64, 64, generator=generator))[0], torch.randn(96, 64, generator=generator)
    left = torch.linalg.qr(left - left.mean(dim=0))[0][:, :-1]  # centred, orthonormal patterns of 8x8 positions
    right = torch.linalg.qr(right)[0][:, :-1]
    sizes = torch.linspace(1.0, 0.9, 63)
    sizes[0] = 1.0005
    activations = (right * sizes @ left.T).reshape(1, 96, 8, 8)
    ours = leading_projection(activations)[0].numpy()
    assert correlation(ours, left[:, 0].numpy()) >= 0.99


def test_images_in_a_batch_do_not_mix():
    activations = torch.randn(19, 24, 8, 8, generator=torch.Generator().manual_seed(5)).relu()
    whole = leading_projection(activations)
    single = torch.cat([leading_projection(activations[i : i + 1]) for i in range(19)])
    torch.testing.assert_close(whole, single, rtol=1e-2, atol=2e-2 * float(whole.abs().max()))


def test_damaged_activations_are_refused():
    for value in (float("nan"), float("inf")):
        activations = torch.rand(9, 4, 8, 8)
        activations[8, 1, 2, 3] = value
        with pytest.raises(MedmarkError, match="not finite"):
            leading_projection(activations)


def test_constant_and_single_position_activations_give_zero():
    for shape in ((2, 5, 8, 8), (2, 5, 1, 1)):
        assert torch.equal(leading_projection(torch.full(shape, 0.5)), torch.zeros(shape[0], *shape[2:]))


def test_at_least_thirty_times_faster_than_stock():
    activations = lifelike(64)
    leading_projection(activations)
    ours = min(_seconds(lambda: leading_projection(activations)) for _ in range(5))
    stock = _seconds(lambda: get_2d_projection(activations.numpy().copy()))
    assert stock / ours >= 30, f"{stock:.2f} s against {ours:.3f} s"


def _seconds(call):
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def test_sign_follows_the_mean_activation():
    activations = torch.zeros(1, 4, 8, 8)
    activations[:, :, 2:5, 2:5] = 3.0
    for sign in (1, -1):
        projection = leading_projection(activations * sign)
        inside = projection[0, 2:5, 2:5].mean() - projection[0, 6:, 6:].mean()
        assert inside * sign > 0


def test_maps_span_zero_to_one_and_survive_constant_images():
    model = build("small_cnn", num_classes=2, size=64, seed=0)
    images = torch.rand(3, 1, 100, 80, generator=torch.Generator().manual_seed(2))
    maps = saliency_maps(model, images)
    assert maps.shape == (3, 1, 32, 32)
    assert maps.amin(dim=(1, 2, 3)).tolist() == [0, 0, 0]
    torch.testing.assert_close(maps.amax(dim=(1, 2, 3)), torch.ones(3))
    assert torch.isfinite(saliency_maps(model, torch.zeros(1, 1, 64, 64))).all()


def test_extracted_maps_are_those_of_the_model(release, surrogates, saliency):
    from medmark.components.dataset.arrays import load_arrays
    from medmark.components.dataset.release import Release

    arrays = load_arrays(Release(release), size=64)
    kept = stack_saliency(load_saliency(saliency), arrays.image_ids)
    model = load_models(surrogates)[0][1]
    torch.testing.assert_close(kept, saliency_maps(model, arrays.images), atol=0.01, rtol=0)


def test_missing_map(saliency, tmp_path):
    with pytest.raises(MedmarkError, match="no saliency map for nobody"):
        stack_saliency(load_saliency(saliency), ["nobody"])
    with pytest.raises(MedmarkError, match="unreadable saliency maps"):
        load_saliency(tmp_path)


def test_vision_transformer_has_maps(tmp_path):
    model = build("vit", num_classes=2, size=64, seed=0)
    assert saliency_maps(model, torch.rand(2, 1, 64, 64)).shape == (2, 1, 32, 32)


def test_extract_repeats_from_prepared_images_too(release, prepared, surrogates, tmp_path):
    model = surrogates / "surrogate-0.safetensors"
    a, b = extract(release, model, tmp_path / "a"), extract(prepared, model, tmp_path / "b")
    assert a == b
