import pytest
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.arrays import ImageArrays, load_arrays
from medmark.components.dataset.release import Release
from medmark.components.robustness.model_attacks import distil, fine_prune, fine_tune, prune_weights
from medmark.components.robustness.suspicion import head, penultimate
from medmark.components.surrogate.models import load_models
from medmark.components.surrogate.networks import build
from medmark.components.surrogate.training import TrainConfig, accuracy, predict_probabilities
from torch import nn


@pytest.fixture
def model(surrogates):
    return load_models(surrogates)[0][1]


@pytest.fixture
def clean(release):
    return load_arrays(Release(release), split="train", size=64)


@pytest.fixture(scope="module")
def easy():
    """Noise, and noise over a bright upper half."""
    images = 0.3 * torch.rand(96, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(96) % 2
    images[labels == 1, :, :32] += 0.5
    names = [f"{i}" for i in range(96)]
    return ImageArrays(images, labels, names, names)


@pytest.fixture(scope="module")
def taught(easy):
    return fine_tune(build("small_cnn", num_classes=2, size=64, seed=3), easy, epochs=12, learning_rate=2e-3, seed=1)


def weights(model):
    return torch.cat([m.weight.flatten() for m in model.network.modules() if isinstance(m, nn.Conv2d | nn.Linear)])


def same(a, b):
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_pruning_zeroes_the_smallest_weights_of_the_whole_network(model, share):
    before = weights(model)
    after = weights(prune_weights(model, share))
    assert (after == 0).sum() == round(share * len(before))
    assert before[after == 0].abs().max() <= before[after != 0].abs().min()
    assert torch.equal(after[after != 0], before[after != 0])
    assert (weights(model) == before).all()


def test_pruning_nothing_changes_nothing(model):
    assert same(prune_weights(model, 0.0), model)


@pytest.mark.parametrize("architecture", ["small_cnn", "resnet_tiny"])
def test_fine_pruning_cuts_off_the_idlest_channels_and_keeps_them_off(architecture, clean):
    model = build(architecture, num_classes=2, size=64, seed=0).eval()
    activity = penultimate(model, clean.images).mean(dim=0)
    expected = set(activity.argsort()[:32].tolist())
    for epochs in (0, 1):
        pruned = fine_prune(model, clean, share=32 / len(activity), epochs=epochs)
        cut = (head(pruned).weight == 0).all(dim=0)
        assert set(cut.nonzero().flatten().tolist()) == expected
    assert not torch.equal(weights(pruned), weights(model))  # fine-tuned as well
    assert not any("mask" in name or "orig" in name for name in pruned.state_dict())


def test_fine_pruning_everything_leaves_a_channel(model, clean):
    cut = (head(fine_prune(model, clean, share=1.0, epochs=0)).weight == 0).all(dim=0)
    assert (~cut).sum() == 1


def test_fine_tuning_learns_from_the_images_it_is_given(easy, taught):
    untrained = build("small_cnn", num_classes=2, size=64, seed=3)
    assert accuracy(untrained, easy) < 0.7
    assert accuracy(taught, easy) > 0.95


def test_fine_tuning_repeats_from_its_seed_and_leaves_its_model_alone(model, clean):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, second, other = (fine_tune(model, clean, epochs=1, seed=seed) for seed in (1, 1, 2))
    assert same(first, second) and not same(first, other)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_fine_tuning_uses_only_the_number_of_images_asked_for(model, clean):
    assert not same(fine_tune(model, clean, epochs=1, images=8), fine_tune(model, clean, epochs=1))
    with pytest.raises(MedmarkError, match="no clean image"):
        fine_tune(model, clean, epochs=1, images=0)


def test_a_student_of_another_architecture_learns_from_answers_alone(easy, taught):
    config = TrainConfig(name="student", architecture="resnet_tiny", size=64, epochs=12, learning_rate=2e-3)
    student = distil(taught, easy.images, config, seed=5)
    assert student.architecture == "resnet_tiny"
    answers, wanted = (predict_probabilities(m, easy.images).argmax(1) for m in (student, taught))
    assert (answers == wanted).mean() > 0.95
