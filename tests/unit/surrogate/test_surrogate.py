import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.arrays import load_arrays
from medmark.components.dataset.release import Release
from medmark.components.surrogate import training
from medmark.components.surrogate.models import load_models, train_models
from medmark.components.surrogate.networks import ARCHITECTURES, build, load_classifier, save_classifier
from medmark.components.surrogate.training import (
    TrainConfig,
    accuracy,
    predict_probabilities,
    train_classifier,
    trained_alike,
)
from safetensors.torch import save_file

CONFIG = TrainConfig(name="x", size=64, epochs=3, seed=5)


@pytest.fixture(scope="module")
def arrays(release):
    return {split: load_arrays(Release(release), split=split, size=64) for split in ("train", "val", "test")}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_network_classifies_and_comes_back_from_its_file(architecture, tmp_path):
    model = build(architecture, num_classes=3, size=64, seed=0)
    images = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    before = predict_probabilities(model, images)
    assert before.shape == (2, 3)
    np.testing.assert_allclose(before.sum(axis=1), 1)
    save_classifier(model, tmp_path / "m.safetensors", note="x")
    again = load_classifier(tmp_path / "m.safetensors")
    assert again.architecture == architecture
    np.testing.assert_array_equal(predict_probabilities(again, images), before)


def test_a_classifier_learns(arrays):
    trained = train_classifier(arrays["train"], arrays["val"], replace(CONFIG, epochs=30), num_classes=2)
    assert accuracy(trained.model, arrays["train"]) > 0.8
    assert [h["epoch"] for h in trained.history] == list(range(1, len(trained.history) + 1))


@pytest.mark.parametrize("steps", [1, 2, 4, 5, 6, 10, 11])
def test_a_training_of_a_few_steps_ends(arrays, steps):
    config = replace(CONFIG, epochs=1, batch_size=len(arrays["train"]) // steps)
    assert train_classifier(arrays["train"], arrays["val"], config, num_classes=2).history[0]["loss"] > 0


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_training_repeats_from_its_seed(arrays):
    runs = [
        weights(train_classifier(arrays["train"], arrays["val"], replace(CONFIG, seed=s), num_classes=2).model)
        for s in (5, 5, 6)
    ]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_an_interrupted_training_ends_the_same(arrays, tmp_path, monkeypatch):
    whole = train_classifier(arrays["train"], arrays["val"], CONFIG, num_classes=2)
    keep = training.save_checkpoint

    def keep_then_die(*args):
        keep(*args)
        raise KeyboardInterrupt

    checkpoint = tmp_path / "c"
    monkeypatch.setattr(training, "save_checkpoint", keep_then_die)
    with pytest.raises(KeyboardInterrupt):
        train_classifier(arrays["train"], arrays["val"], CONFIG, num_classes=2, checkpoint=checkpoint)
    monkeypatch.setattr(training, "save_checkpoint", keep)
    resumed = train_classifier(arrays["train"], arrays["val"], CONFIG, num_classes=2, checkpoint=checkpoint)
    assert resumed.history == whole.history
    assert same(weights(resumed.model), weights(whole.model))
    assert not checkpoint.exists()


def test_checkpoint_of_another_run_is_refused(arrays, tmp_path):
    checkpoint = tmp_path / "c"
    torch.save({"signature": "other"}, checkpoint)
    with pytest.raises(MedmarkError, match="checkpoint of another run"):
        train_classifier(arrays["train"], arrays["val"], CONFIG, num_classes=2, checkpoint=checkpoint)


def test_panel_is_kept_and_checked(release, tmp_path):
    configs = [replace(CONFIG, name=f"m{i}", epochs=1, seed=i) for i in range(2)]
    first = train_models(release, tmp_path, configs=configs)
    stamp = (tmp_path / "m0.safetensors").stat().st_mtime_ns
    again = train_models(release, tmp_path, configs=configs)
    assert again == first
    assert (tmp_path / "m0.safetensors").stat().st_mtime_ns == stamp
    assert [entry["name"] for entry, _ in load_models(tmp_path)] == ["m0", "m1"]
    (tmp_path / "m1.safetensors").write_bytes(b"other")
    with pytest.raises(MedmarkError, match="weights changed or missing"):
        load_models(tmp_path)


def test_hostile_weights_are_refused(tmp_path):
    pickled = tmp_path / "p.safetensors"
    torch.save({"a": torch.zeros(1)}, pickled)
    with pytest.raises(MedmarkError, match="not weights that medmark wrote"):
        load_classifier(pickled)
    for header in (
        "[]",
        "{",
        json.dumps({"architecture": "os.system", "num_classes": 2, "size": 64}),
        json.dumps({"architecture": "small_cnn", "num_classes": 10**9, "size": 64}),
        json.dumps({"architecture": "small_cnn", "num_classes": 2, "size": 64}),
    ):
        save_file({"a": torch.zeros(1)}, tmp_path / "h.safetensors", metadata={"medmark": header})
        with pytest.raises(MedmarkError):
            load_classifier(tmp_path / "h.safetensors")


def test_supplied_weights_are_used_where_they_fit(tmp_path):
    donor = build("small_cnn", num_classes=5, size=64, seed=1)
    save_file({k: v.contiguous() for k, v in donor.network.state_dict().items()}, tmp_path / "w.safetensors")
    model = build("small_cnn", num_classes=2, size=64, seed=2, weights=tmp_path / "w.safetensors")
    assert torch.equal(model.network.features[0][0].weight, donor.network.features[0][0].weight)
    assert model.network.head[1].weight.shape == (2, 128)
    save_file({"b": torch.zeros(1)}, tmp_path / "n.safetensors")
    with pytest.raises(MedmarkError, match="no tensor of"):
        build("small_cnn", num_classes=2, size=64, seed=2, weights=tmp_path / "n.safetensors")


def test_a_model_trained_alike_is_found_by_its_configuration_alone():
    others = [replace(CONFIG, name="other", seed=CONFIG.seed + 1), replace(CONFIG, name="same")]
    assert trained_alike(replace(CONFIG, name="marked"), others) == "same"
    with pytest.raises(MedmarkError, match="no benign model is trained as longer is"):
        trained_alike(replace(CONFIG, name="longer", epochs=CONFIG.epochs + 1), others)
