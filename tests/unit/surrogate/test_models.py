import json
import shutil

import pytest
import torch
from medmark.components.base.digests import file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.arrays import ImageArrays
from medmark.components.surrogate.models import gather_models, load_models, train_models
from medmark.components.surrogate.training import TrainConfig, predict_probabilities, train_classifier

CONFIGS = [TrainConfig(name=f"m{i}", size=64, epochs=1, seed=i, subset=(1.0, 0.7)[i]) for i in range(2)]


@pytest.fixture(scope="module")
def models(release, tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    train_models(release, path, configs=CONFIGS, workers=1)
    return path


def digests(index):
    return [entry["sha256"] for entry in index["models"]]


def test_neither_workers_nor_prepared_images_change_anything(prepared, models, tmp_path):
    side_by_side = train_models(prepared, tmp_path, configs=CONFIGS, workers=2)
    assert digests(side_by_side) == digests(json.loads((models / "models.json").read_bytes()))
    assert [entry["name"] for entry in side_by_side["models"]] == ["m0", "m1"]


def test_a_workers_refusal_arrives_as_it_is(release, tmp_path):
    wrong = [TrainConfig(name=f"w{i}", size=64, epochs=1, augmentation="wild") for i in range(2)]
    with pytest.raises(MedmarkError, match="unknown augmentation"):
        train_models(release, tmp_path, configs=wrong, workers=2)


def test_only_what_is_missing_or_changed_is_trained_again(release, tmp_path):
    first = train_models(release, tmp_path, configs=CONFIGS, workers=1)
    (tmp_path / "m1.safetensors").unlink()
    stamp = (tmp_path / "m0.safetensors").stat().st_mtime_ns
    again = train_models(release, tmp_path, configs=CONFIGS, workers=1)
    assert digests(again) == digests(first)
    assert (tmp_path / "m0.safetensors").stat().st_mtime_ns == stamp
    other = [TrainConfig(name="m0", size=64, epochs=1, seed=9)]
    assert digests(train_models(release, tmp_path, configs=other, workers=1)) != digests(first)[:1]


def test_two_models_of_one_name_are_refused(release, tmp_path):
    with pytest.raises(MedmarkError, match="two models with one name"):
        train_models(release, tmp_path, configs=[CONFIGS[0]] * 2)


def test_models_of_several_folders_are_put_together(models, tmp_path):
    index = json.loads((models / "models.json").read_bytes())
    parts = []
    for entry in index["models"]:
        part = tmp_path / entry["name"]
        part.mkdir()
        shutil.copyfile(models / entry["file"], part / entry["file"])
        (part / "models.json").write_text(json.dumps(index | {"models": [entry]}))
        parts.append(part)
    assert gather_models(parts, tmp_path / "all") == index
    assert {path.name: file_sha256(path) for path in (tmp_path / "all").iterdir()} == {
        path.name: file_sha256(path) for path in models.iterdir()
    }
    with pytest.raises(MedmarkError, match="two models with one name among"):
        gather_models([parts[0], parts[0]], tmp_path / "twice")
    (parts[1] / "models.json").write_text(json.dumps(index | {"release_digest": "0" * 64, "models": []}))
    with pytest.raises(MedmarkError, match="models of 2 releases cannot be put together"):
        gather_models(parts, tmp_path / "mixed")
    with pytest.raises(MedmarkError, match="models of 0 releases"):
        gather_models([], tmp_path / "none")


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"models": 3}', '{"models": [{"file": "../m0.safetensors", "sha256": ""}]}', "[" * 100_000]
)
def test_a_damaged_list_is_refused(tmp_path, content):
    (tmp_path / "models.json").write_text(content)
    with pytest.raises(MedmarkError, match="damaged list of models"):
        load_models(tmp_path)


def test_a_folder_without_models_is_refused(tmp_path):
    with pytest.raises(MedmarkError, match="no models.json"):
        load_models(tmp_path)


def make_arrays(count=12, labels=None):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 1, 32, 32, generator=generator)
    labels = torch.arange(count) % 2 if labels is None else labels
    return ImageArrays(images, labels, [f"i{i}" for i in range(count)], [f"p{i}" for i in range(count)])


def test_a_class_without_images_is_refused():
    arrays = make_arrays(labels=torch.zeros(12, dtype=torch.long))
    with pytest.raises(MedmarkError, match="class 1 has no training image for x"):
        train_classifier(arrays, arrays, TrainConfig(name="x", size=32, epochs=1), num_classes=2)


def test_diverging_training_is_refused():
    arrays = make_arrays()
    arrays.images[3] = float("nan")
    with pytest.raises(MedmarkError, match="training of x diverged in epoch 1"):
        train_classifier(arrays, arrays, TrainConfig(name="x", size=32, epochs=2, augmentation="none"), num_classes=2)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    (tmp_path / "c").write_bytes(b"\x80\x04garbage")
    with pytest.raises(MedmarkError, match="damaged checkpoint"):
        train_classifier(
            make_arrays(),
            make_arrays(),
            TrainConfig(name="x", size=32, epochs=1),
            num_classes=2,
            checkpoint=tmp_path / "c",
        )


def test_rare_classes_weigh_as_much_as_common_ones():
    # dark against bright images, 40 to 4: unweighted training for so few steps calls everything common
    labels = (torch.arange(44) >= 40).long()
    arrays = make_arrays(44, labels)
    arrays.images = arrays.images * 0.2 + 0.6 * labels[:, None, None, None]
    config = TrainConfig(name="x", size=32, epochs=10, batch_size=11, augmentation="none", patience=10)
    trained = train_classifier(arrays, arrays, config, num_classes=2)
    assert (predict_probabilities(trained.model, arrays.images).argmax(1) == labels.numpy()).all()
