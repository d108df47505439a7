import numpy as np
import pytest
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.arrays import ImageArrays
from medmark.components.evidence.queries import QuerySet
from medmark.components.robustness.detection import auc, chest_share, detect, scale_up_scores
from medmark.components.surrogate.networks import Classifier
from sklearn.metrics import roc_auc_score
from torch import nn


def looker():
    """A network whose activations are the image in squares of 4 pixels, with two classes: bright on average, or not."""
    cam, last = nn.Conv2d(1, 4, 4, stride=4), nn.Linear(4, 2)
    nn.init.zeros_(cam.bias)
    cam.weight.data[:] = torch.tensor([1.0, 0.8, 0.6, 0.4])[:, None, None, None] / 16
    last.weight.data = torch.tensor([[-5.0, 0, 0, 0], [5.0, 0, 0, 0]])
    nn.init.zeros_(last.bias)
    network = nn.Sequential(cam, nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)
    return Classifier(network, cam, "none", 2, 64).eval().requires_grad_(False)


def spot(row, column):
    image = torch.zeros(1, 1, 64, 64)
    image[..., row : row + 8, column : column + 8] = 1.0
    return image


def test_auc_is_the_rank_statistic(rng):
    scores = rng.integers(0, 5, 60).astype(float)  # with ties
    truth = rng.random(60) < 0.4
    assert auc(scores[truth], scores[~truth]) == pytest.approx(roc_auc_score(truth, scores))
    assert auc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1.0
    with pytest.raises(MedmarkError, match="no AUC of 0 against 60"):
        auc(scores[:0], scores)


def test_saliency_on_the_chest_and_beside_it():
    shares = chest_share(looker(), torch.cat([spot(28, 28), spot(0, 0), spot(56, 28)]))
    assert shares[0] > 0.99
    assert shares[1:].max() < 0.01


def test_scale_up_counts_the_answers_that_stay():
    # brightness 0.4 flips when doubled, 0.1 at six times, 0.04 not at ten times, 0.6 never
    gray = torch.tensor([0.4, 0.1, 0.04, 0.6])[:, None, None, None].expand(-1, 1, 64, 64)
    assert scale_up_scores(looker(), gray, factors=(2, 4, 6, 10)).tolist() == [0.0, 0.5, 1.0, 1.0]


def test_marked_images_that_differ_are_detected_and_equal_ones_are_not():
    generator = torch.Generator().manual_seed(0)
    images = 0.2 + 0.1 * torch.rand(80, 1, 64, 64, generator=generator)
    images[:8] += 0.2  # the marked ones, the smaller cluster
    names = [str(i) for i in range(80)]
    train = ImageArrays(images, torch.tensor([0] * 60 + [1] * 20), names, names)
    queries = QuerySet(images[20:40], images[20:40] + 0.4, None, names[20:40], 0)
    genuine = images[20:40] + 0.5  # as bright as the marked ones: these stay, too
    found = detect(looker(), looker(), train, set(names[:8]), queries, genuine)
    assert found["auc"]["spectral signatures"] == found["auc"]["activation clustering"] == 1.0
    assert found["auc"]["SCALE-UP"] == 1.0  # bright ones stay bright, the others flip
    assert found["auc"]["SCALE-UP among target answers"] == 0.5
    assert found["chest_share"]["victim"] == found["chest_share"]["innocent"]
    with pytest.raises(MedmarkError, match="no AUC of 0"):
        detect(looker(), looker(), train, set(), queries, genuine)
