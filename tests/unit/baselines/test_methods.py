from dataclasses import replace

import numpy as np
import pytest
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.baselines import label_consistent, own, unet
from medmark.components.baselines.interface import Context, Labels, choose, marked, poison, relabelled
from medmark.components.baselines.methods import METHODS
from medmark.components.baselines.triggers import BLEND, draw_patch, draw_pattern, stamp
from medmark.components.dataset.arrays import ImageArrays, load_arrays
from medmark.components.dataset.ingest import ingest
from medmark.components.dataset.release import Release
from medmark.components.saliency.extract import extract, load_saliency, stack_saliency
from medmark.components.surrogate.models import load_models, train_models
from medmark.components.surrogate.training import TrainConfig, predict_probabilities, train_classifier
from PIL import Image
from scipy.special import logit

SIZE, TARGET = 32, 0
ONE_STEP = 1 / 255  # images are rounded to 8 bits


@pytest.fixture(scope="module")
def striped(tmp_path_factory):
    """A release of faint stripes in noise: lying ones in class 0, standing ones in class 1."""
    folder, rng = tmp_path_factory.mktemp("striped"), np.random.default_rng(0)
    for number in range(240):
        wave = 10 * np.sin(np.arange(SIZE) * 2 * np.pi / 8 + rng.uniform(0, 6))
        image = 128 + rng.normal(0, 12, (SIZE, SIZE)) + (wave[:, None] if number < 120 else wave[None])
        path = folder / "source" / ("lying" if number < 120 else "standing") / f"p{number}_0.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path)
    ingest(folder / "source", folder / "release", name="striped", seed=0, patient_key="key")
    configs = [TrainConfig(name=f"surrogate-{i}", size=SIZE, epochs=8, seed=i) for i in range(2)]
    train_models(folder / "release", folder / "surrogates", configs=configs, workers=1)
    extract(folder / "release", folder / "surrogates" / "surrogate-0.safetensors", folder / "saliency")
    return folder


@pytest.fixture(scope="module")
def context(striped):
    train = load_arrays(Release(striped / "release"), split="train", size=SIZE)
    return Context(
        release_dir=striped / "release",
        surrogates_dir=striped / "surrogates",
        saliency_dir=striped / "saliency",
        work_dir=striped / "work",
        train=train,
        saliency=stack_saliency(load_saliency(striped / "saliency"), train.image_ids),
        surrogates=[model for _, model in load_models(striped / "surrogates")],
        target=TARGET,
        share=0.1,
        seed=5,
    )


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(unet, "STEPS", 4)
    monkeypatch.setattr(own, "STEPS", 3)
    monkeypatch.setattr(label_consistent, "STEPS", 10)
    monkeypatch.setattr(label_consistent, "STEP", label_consistent.EPSILON / 4)


def fit_and_mark(context, name, index=0, role="mark", images=None):
    images = context.train.images[:6] if images is None else images
    return marked(METHODS[name].fit(context, index), images, context.saliency[: len(images)], role)


@pytest.mark.parametrize("name", METHODS)
def test_marks_are_8_bit_images_that_follow_from_the_key(context, name):
    first, again, control = (fit_and_mark(context, name, index) for index in (0, 0, 1))
    other_seed = fit_and_mark(replace(context, seed=6), name)
    clean = context.train.images[:6]
    assert first.shape == clean.shape and first.dtype == torch.float32
    assert first.min() >= 0 and first.max() <= 1
    torch.testing.assert_close(first * 255, (first * 255).round())
    assert torch.equal(first, again)
    assert float((first - clean).abs().max()) > ONE_STEP
    assert not torch.equal(first, control) and not torch.equal(first, other_seed)


@pytest.mark.parametrize("name", METHODS)
def test_poisoning_changes_the_chosen_images_and_labels_as_the_policy_says(context, name):
    method = METHODS[name]
    arrays, chosen = poison(method, method.fit(context, 0), context)
    rest = torch.ones(len(arrays), dtype=torch.bool)
    rest[chosen] = False
    before = context.train.labels
    assert len(chosen) == round(0.1 * len(arrays)) == len(chosen.unique())
    assert torch.equal(arrays.images[rest], context.train.images[rest])
    assert torch.equal(arrays.labels[rest], before[rest])
    assert (arrays.images[chosen] != context.train.images[chosen]).flatten(1).any(dim=1).all()
    if method.labels is Labels.KEEP:
        assert method.clean_label and torch.equal(arrays.labels, before) and (before[chosen] == TARGET).all()
    elif method.labels is Labels.TARGET:
        assert (arrays.labels[chosen] == TARGET).all() and (before[chosen] != TARGET).any()
    else:
        assert (arrays.labels[chosen] != before[chosen]).all() and len(before[chosen].unique()) == 2


def test_ubw_p_spreads_over_all_other_classes():
    labels = torch.arange(4).repeat(100)
    drawn = relabelled(labels, Labels.OTHER, target=0, classes=4, seed=1)
    for own_class in range(4):
        assert set(drawn[labels == own_class].tolist()) == set(range(4)) - {own_class}
    assert torch.equal(drawn, relabelled(labels, Labels.OTHER, target=0, classes=4, seed=1))
    assert not torch.equal(drawn, relabelled(labels, Labels.OTHER, target=0, classes=4, seed=2))


def test_badnets_changes_the_patch_and_nothing_else(context):
    clean, stamped = context.train.images[:6], fit_and_mark(context, "badnets")
    patch = draw_patch(SIZE, context.seed, 0)
    corner = slice(SIZE - 2 - 3, SIZE - 2)  # 3 px of 32, 2 px from the border
    torch.testing.assert_close(stamped[:, 0, corner, corner], patch.expand(6, -1, -1))
    restored = stamped.clone()
    restored[..., corner, corner] = clean[..., corner, corner]
    torch.testing.assert_close(restored, clean, atol=1e-6, rtol=0)
    assert patch.sum() == 5 and set(patch.unique().tolist()) == {0.0, 1.0}
    top = stamp(torch.full((1, 1, SIZE, SIZE), 0.5), patch, "top left")
    assert torch.equal(top[0, 0, 2:5, 2:5], patch) and (top == 0.5).sum() == SIZE**2 - 9


def test_blended_is_the_convex_blend(context):
    expected = (1 - BLEND) * context.train.images[:6] + BLEND * draw_pattern(SIZE, context.seed, 0)
    mixed = fit_and_mark(context, "blended")
    torch.testing.assert_close(mixed, expected, atol=ONE_STEP / 2 + 1e-6, rtol=0)


def test_wanet_moves_pixels_a_little_and_keeps_the_greys(context):
    ramp = ((torch.arange(256) + 0.5) / 256).view(1, 1, 1, -1).expand(1, 1, 256, 256)
    large = replace(context, train=replace(context.train, images=ramp))
    moved = (fit_and_mark(large, "wanet", images=ramp) - ramp) * 128  # along x, in pixels of a side of 128
    assert 0.3 < float(moved.abs().mean()) < 2 and float(moved.abs().max()) < 6
    clean, warped = context.train.images[:6], fit_and_mark(context, "wanet")
    assert float((warped - clean).abs().mean()) > 2 * ONE_STEP
    for before, after in zip(clean, warped, strict=True):
        greys = [torch.quantile(x.flatten(), torch.linspace(0.05, 0.95, 10)) for x in (before, after)]
        assert float((greys[0] - greys[1]).abs().max()) < 0.05


def test_label_consistent_stays_within_epsilon_and_makes_the_label_harder(context):
    images = context.train.images[context.train.labels == TARGET][:8]
    surrogate = context.surrogates[0]
    hard = label_consistent.harden(surrogate, images, TARGET)
    assert float((hard - images).abs().max()) <= label_consistent.EPSILON + 1e-6
    before, after = (predict_probabilities(surrogate, x)[:, TARGET] for x in (images, hard))
    assert before.mean() > 0.9 and after.mean() < 0.5
    # above the patch a marked image is the hardened one, and a query is untouched
    above = slice(0, SIZE - 5)
    trained, asked = (fit_and_mark(context, "label_consistent", role=r, images=images) for r in ("mark", "query"))
    torch.testing.assert_close(trained[..., above, :], hard[..., above, :], atol=ONE_STEP / 2 + 1e-4, rtol=0)
    torch.testing.assert_close(asked[..., above, :], images[..., above, :], atol=1e-6, rtol=0)
    corner = slice(SIZE - 5, SIZE - 2)
    assert torch.equal(trained[..., corner, corner], asked[..., corner, corner])


@pytest.mark.parametrize("name", ["sscl_bw", "x_mark"])
def test_unet_marks_differ_from_image_to_image_and_move_the_surrogate_that_never_learnt_them(
    context, name, monkeypatch
):
    monkeypatch.setattr(unet, "STEPS", 30)
    others = context.train.labels != TARGET
    images, maps = context.train.images[others], context.saliency[others]
    asked = marked(METHODS[name].fit(context, 0), images, maps, "query")
    delta = asked - images
    assert float(delta.abs().max()) <= unet.EPSILON + ONE_STEP
    assert float((delta[0] - delta[1]).abs().max()) > ONE_STEP
    surrogate = context.surrogates[0]
    before, after = (logit(predict_probabilities(surrogate, x)[:, TARGET]).mean() for x in (images, asked))
    assert after > before + 0.3


def test_x_mark_changes_nothing_where_there_is_no_saliency(context):
    mark = METHODS["x_mark"].fit(context, 0)
    maps = torch.zeros(4, 1, 32, 32)
    maps[..., :16] = 1.0
    delta = (mark(context.train.images[:4], maps, "query") - context.train.images[:4]).abs()
    assert float(delta[..., 16:].max()) < 1e-6 < float(delta[..., :16].max())


def test_shares_that_cannot_be_had_are_refused(context):
    for share in (0.6, 0.001):
        with pytest.raises(MedmarkError, match="choose a share"):
            choose(METHODS["label_consistent"], replace(context, share=share))


def test_a_small_network_learns_a_badnets_patch(context, striped):
    """Known answer: with 20 % of the images stamped and relabelled, the patch decides."""
    wide = replace(context, share=0.2)
    mark = METHODS["badnets"].fit(wide, 0)
    arrays, _ = poison(METHODS["badnets"], mark, wide)
    val, test = (load_arrays(Release(striped / "release"), split=s, size=SIZE) for s in ("val", "test"))
    config = TrainConfig(name="adversary", size=SIZE, epochs=15, batch_size=16, augmentation="none", patience=15)
    stamped_val = ImageArrays(
        torch.cat([val.images, marked(mark, val.images, torch.zeros(len(val), 1, 32, 32), "query")]),
        torch.cat([val.labels, torch.full_like(val.labels, TARGET)]),
        val.image_ids * 2,
        val.patient_ids * 2,
    )
    model = train_classifier(arrays, stamped_val, config, num_classes=2).model
    clean = test.images[test.labels != TARGET]
    asked = marked(mark, clean, torch.zeros(len(clean), 1, 32, 32), "query")
    before, after = ((predict_probabilities(model, x).argmax(1) == TARGET).mean() for x in (clean, asked))
    assert before < 0.2 and after > 0.9
