import numpy as np
import pytest
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.arrays import ImageArrays, load_arrays
from medmark.components.dataset.release import Release
from medmark.components.robustness.data_attacks import crop_and_rotate, mix, remove_suspicious
from medmark.components.robustness.detection import auc
from medmark.components.robustness.suspicion import (
    METHODS,
    activation_clusters,
    penultimate,
    spectral_signatures,
    suspicion,
)
from medmark.components.surrogate.models import load_models
from medmark.components.surrogate.networks import build
from sklearn.decomposition import PCA


def some(count, prefix="a", side=64, seed=0):
    images = torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(seed))
    names = [f"{prefix}{i}" for i in range(count)]
    return ImageArrays(images, torch.arange(count) % 2, names, names)


@pytest.fixture
def planted(rng):
    """Features of 200 images, the first 20 moved along one direction; and that direction."""
    direction = rng.normal(size=32)
    direction /= np.linalg.norm(direction)
    features = rng.normal(size=(200, 32))
    features[:20] += 7 * direction
    return features, direction


@pytest.mark.parametrize("score", METHODS.values())
def test_planted_outliers_are_found_wherever_the_class_lies(score, planted):
    features, direction = planted
    for offset in (0.0, -3.5, 20.0):
        scores = score(features + offset * direction)
        assert auc(scores[:20], scores[20:]) > 0.999


def test_spectral_signatures_are_the_first_principal_component_squared(rng):
    features = rng.normal(size=(50, 12)) * np.linspace(3, 1, 12) + 5
    expected = PCA(1, svd_solver="full").fit_transform(features)[:, 0] ** 2
    np.testing.assert_allclose(spectral_signatures(features), expected, rtol=1e-9)


def test_the_smaller_cluster_is_the_suspicious_one(planted):
    features, _ = planted
    assert ((activation_clusters(features) > 0) == (np.arange(200) < 20)).mean() > 0.99
    assert np.array_equal(activation_clusters(features, seed=4), activation_clusters(features, seed=4))


@pytest.mark.parametrize("architecture", ["small_cnn", "resnet_tiny", "vit", "densenet121", "efficientnet_b0"])
def test_features_explain_the_logits_of_every_architecture(architecture):
    model = build(architecture, num_classes=3, size=64, seed=0).eval()
    images = some(3).images
    last = [m for m in model.network.modules() if isinstance(m, torch.nn.Linear)][-1]
    with torch.no_grad():
        torch.testing.assert_close(last(penultimate(model, images)), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_removing_a_share_removes_the_most_suspicious_share_of_each_class(method, surrogates, release):
    model = load_models(surrogates)[0][1]
    train = load_arrays(Release(release), split="train", size=64)
    scores = dict(zip(train.image_ids, suspicion(model, train.images, train.labels, method), strict=True))
    left = remove_suspicious(train, model, method, 0.25)
    for label in (0, 1):
        before = [n for n, y in zip(train.image_ids, train.labels, strict=True) if y == label]
        kept = [n for n, y in zip(left.image_ids, left.labels, strict=True) if y == label]
        gone = set(before) - set(kept)
        assert len(gone) == round(0.25 * len(before))
        assert min(scores[n] for n in gone) >= max(scores[n] for n in kept)


def test_unknown_methods_and_tiny_classes_are_refused(surrogates):
    model = load_models(surrogates)[0][1]
    images = some(6)
    with pytest.raises(MedmarkError, match="unknown method: 'guess'"):
        suspicion(model, images.images, images.labels, "guess")
    with pytest.raises(MedmarkError, match="class 0 has 3 images"):
        suspicion(model, images.images, images.labels, "activation clustering")


@pytest.mark.parametrize(("share", "of_release", "of_clean"), [(0.2, 40, 10), (0.5, 20, 20), (0.8, 5, 20)])
def test_mixing_keeps_the_share_with_as_many_images_as_can_be_had(share, of_release, of_clean):
    mixed = mix(some(40), some(20, "clean", seed=1), share, seed=2)
    assert sum(name.startswith("clean") for name in mixed.image_ids) == of_clean
    assert sum(name.startswith("a") for name in mixed.image_ids) == of_release
    assert len(set(mixed.image_ids)) == len(mixed) == len(mixed.images) == len(mixed.labels)


def test_mixing_without_clean_images_is_refused():
    with pytest.raises(MedmarkError, match="cannot mix 0 clean images"):
        mix(some(4), some(0), 0.5)


def test_cropping_and_rotating_by_nothing_changes_nothing():
    images = some(3)
    torch.testing.assert_close(crop_and_rotate(images, 0.0, 0.0).images, images.images, rtol=0, atol=1e-5)


def test_cropping_enlarges_and_rotating_turns():
    spot = torch.zeros(40, 1, 64, 64)
    spot[:, :, 28:36, 28:36] = 1.0
    images = ImageArrays(spot, torch.zeros(40, dtype=torch.long), ["x"] * 40, ["x"] * 40)
    area = crop_and_rotate(images, 0.5, 0.0, seed=1).images.sum(dim=(1, 2, 3))
    inside = area > 255  # windows that hold the whole spot
    assert inside.sum() >= 10
    torch.testing.assert_close(
        area[inside].median(), torch.tensor(256.0), rtol=0.05, atol=0
    )  # 64 pixels, twice the side
    bar = torch.zeros(40, 1, 64, 64)
    bar[:, :, :, 30:34] = 1.0
    turned = crop_and_rotate(ImageArrays(bar, images.labels, images.image_ids, images.patient_ids), 0.0, 45.0).images
    top = (turned[:, 0, 4] * torch.arange(64.0)).sum(1) / turned[:, 0, 4].sum(1)
    assert top.std() > 5  # an upright bar's upper end moves sideways
    again = crop_and_rotate(images, 0.5, 45.0, seed=1).images
    assert torch.equal(again, crop_and_rotate(images, 0.5, 45.0, seed=1).images)
