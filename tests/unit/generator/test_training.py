from dataclasses import replace

import pytest
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.generator import objective
from medmark.components.generator.marker import Marker, Shape
from medmark.components.generator.objective import Weights
from medmark.components.generator.train import GeneratorConfig, _Training, train_generator

CONFIG = GeneratorConfig(shape=Shape(size=64, grid=32), steps=6, batch_size=8, reinitialise=4)


def run(release, surrogates, saliency, out, config=CONFIG, **options):
    options = {"target_class": "normal", "seed": 3, **options}
    return train_generator(release, surrogates, saliency, out, config=config, **options)


def weights(path):
    return dict(Marker.load(path).network.state_dict())


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_training_repeats_from_its_seed_and_from_prepared_images(release, prepared, surrogates, saliency, tmp_path):
    given = ((release, 3), (prepared, 3), (release, 4))
    results = [run(r, surrogates, saliency, tmp_path / str(i), seed=s) for i, (r, s) in enumerate(given)]
    assert results[0]["history"] == results[1]["history"] != results[2]["history"]
    assert same(weights(tmp_path / "0"), weights(tmp_path / "1"))
    assert not same(weights(tmp_path / "0"), weights(tmp_path / "2"))
    assert results[0]["marked"] == round(0.15 * 84)


def test_an_interrupted_training_ends_the_same(release, surrogates, saliency, tmp_path, monkeypatch):
    monkeypatch.setattr("medmark.components.generator.train.CHECKPOINT_EVERY", 3)
    whole = run(release, surrogates, saliency, tmp_path / "whole")
    keep = _Training._keep

    def keep_then_die(self, path):
        keep(self, path)
        raise KeyboardInterrupt

    monkeypatch.setattr(_Training, "_keep", keep_then_die)
    with pytest.raises(KeyboardInterrupt):
        run(release, surrogates, saliency, tmp_path / "cut")
    monkeypatch.setattr(_Training, "_keep", keep)
    with pytest.raises(MedmarkError, match="checkpoint of another run"):
        run(release, surrogates, saliency, tmp_path / "cut", seed=9)
    resumed = run(release, surrogates, saliency, tmp_path / "cut")
    assert resumed["history"] == whole["history"]
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    assert not (tmp_path / "cut" / "checkpoint.pt").exists()


def test_without_steps_the_mark_is_the_carrier(release, surrogates, saliency, tmp_path):
    run(release, surrogates, saliency, tmp_path, replace(CONFIG, steps=0))
    marker = Marker.load(tmp_path)
    images, maps = torch.rand(2, 1, 64, 64), torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(marker.delta(images, maps, "mark"), marker.delta(images, maps, "decoy", marker.key))


EVERY_TERM = replace(CONFIG, ssim_floor=0.999)  # so that the perceptual term is at work


@pytest.fixture(scope="module")
def with_every_term(release, surrogates, saliency, tmp_path_factory):
    folder = tmp_path_factory.mktemp("every-term")
    run(release, surrogates, saliency, folder, EVERY_TERM)
    return weights(folder)


@pytest.mark.parametrize("term", ["efficacy", "learnability", "panel", "hard", "laplacian", "perceptual"])
def test_every_term_can_be_switched_off(release, surrogates, saliency, with_every_term, tmp_path, term):
    run(release, surrogates, saliency, tmp_path, replace(EVERY_TERM, weights=replace(Weights(), **{term: 0.0})))
    assert not same(with_every_term, weights(tmp_path))


def test_refusals(release, surrogates, saliency, tmp_path):
    with pytest.raises(MedmarkError, match="unknown class: 'martian'"):
        run(release, surrogates, saliency, tmp_path, target_class="martian")
    with pytest.raises(MedmarkError, match="size 60 and grid 32 do not fit"):
        run(release, surrogates, saliency, tmp_path, replace(CONFIG, shape=Shape(size=60, grid=32)))


def test_margin_neutrality_and_hardness_known_answers():
    logits = torch.tensor([[2.0, 1.0, 0.5], [0.0, 3.0, 1.0]])
    torch.testing.assert_close(objective.target_margin(logits, 0), torch.tensor([1.0, -3.0]))
    assert objective.hardness(logits, 0) == pytest.approx((1.0 + objective.HARD_MARGIN) / 2)
    assert objective.panel_neutrality(logits, logits, 0) == 0
    shifted = logits + torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert objective.panel_neutrality(logits, shifted, 0) == pytest.approx(2.0)


def test_fine_patterns_cost_more_than_coarse_ones():
    axis = torch.arange(64).float()
    costs = [
        float(objective.laplacian((0.02 * torch.sin(2 * torch.pi * axis / period)).expand(1, 1, 64, 64)))
        for period in (3, 8, 32)
    ]
    assert costs[0] > 2 * costs[1] > 4 * costs[2]


def test_invisibility_is_zero_above_the_floor():
    image = torch.rand(2, 1, 64, 64)
    assert objective.invisibility(image, image, 0.99) == 0
    assert objective.invisibility((image + 0.3 * torch.randn_like(image)).clamp(0, 1), image, 0.99) > 0.1
