import pytest
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.surrogate.training import AUGMENTATIONS, TrainConfig, augment, train_classifier


def draw(kind, images, seed=0):
    return augment(images, kind, torch.Generator().manual_seed(seed))


@pytest.fixture
def images():
    return torch.rand(16, 1, 48, 48, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_images_keep_shape_range_and_repeat_from_the_seed(kind, images):
    out = draw(kind, images)
    assert out.shape == images.shape and out.dtype == torch.float32
    assert out.min() >= 0 and out.max() <= 1
    assert torch.equal(out, draw(kind, images))
    assert torch.equal(out, images) == (kind == "none")


def test_each_image_is_changed_in_its_own_way(images):
    out = draw("standard", images[:1].expand(16, -1, -1, -1))
    assert len({float(image.sum()) for image in out}) == 16


def test_strong_moves_further_and_mirrors_some():
    # one bright spot left of the middle: a mirrored image has it on the right
    images = torch.zeros(64, 1, 64, 64)
    images[:, :, 30:34, 10:14] = 1.0
    columns = torch.arange(64.0)

    def centres(kind):
        spot = (draw(kind, images).squeeze(1) > 0.6).float()
        return (spot.sum(1) * columns).sum(1) / spot.sum((1, 2)).clamp_min(1)

    standard, strong = centres("standard"), centres("strong")
    assert (standard < 32).all()
    assert 16 <= (strong > 32).sum() <= 48
    assert strong[strong < 32].std() > standard.std()


def test_an_unknown_augmentation_is_refused():
    config = TrainConfig(name="x", augmentation="wild")
    with pytest.raises(MedmarkError, match="unknown augmentation: 'wild'"):
        train_classifier(None, None, config, num_classes=2)
