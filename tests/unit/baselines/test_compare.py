import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.baselines import compare as module
from medmark.components.baselines.compare import compare, one_a_patient, prepare
from medmark.components.baselines.interface import Labels, Method
from medmark.components.baselines.methods import METHODS
from medmark.components.profiles import Profile
from medmark.components.surrogate.training import predict_probabilities

PROFILE = Profile(
    size=64, epochs=1, other_architecture="resnet_tiny", other_epochs=1, surrogates=1, benign_models=3, marked_share=0.1
)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def field(release, work):
    return prepare(release, work, PROFILE)


@pytest.fixture
def benchmark(monkeypatch):
    """The script, as run from its folder."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    yield importlib.import_module("compare_methods")
    for name in ("compare_methods", "marking"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["badnets", "ubw_p"])
def test_a_row_has_every_figure(field, name):
    row = compare(METHODS[name], field)
    assert row["marked"] == round(0.1 * len(field.context.train)) and not row["clean_label"]
    assert 0 < row["quality"]["ssim"] < 1 and row["innocents"]["count"] == 3
    assert [v["name"] for v in row["victims"]] == ["marked-small_cnn", "marked-resnet_tiny"]
    for marked_model in row["victims"]:
        assert set(marked_model["attacks"]) == {"half", "jpeg_75", "fine_tuned", "pruned_50"}
        rates = [rate for attack in marked_model["attacks"].values() for rate in attack.values()]
        assert all(0 <= rate <= 1 for rate in rates) and -1 <= marked_model["accuracy_lost"] <= 1
    json.dumps(row)


def test_a_mark_that_changes_nothing_convicts_nobody_and_costs_nothing(field):
    nothing = Method("nothing", Labels.KEEP, lambda context, index: lambda images, saliency, role: images)
    row = compare(nothing, field)
    assert row["quality"]["ssim"] == pytest.approx(1) and row["innocents"]["accused_by_t_test_alone"] == 0
    for marked_model in row["victims"]:
        assert marked_model["verdict"] == "not_owned" and marked_model["delta_p"] == 0
        # the honest model of the same seed saw the same images: the same model
        assert marked_model["accuracy_lost"] == 0


class CallsBrightTheTarget(torch.nn.Module):
    """Takes images of mean above 0.8 for class 0 and all others for class 1."""

    size = 64

    def __init__(self):
        super().__init__()
        self.level = torch.nn.Parameter(torch.tensor(0.8))

    def forward(self, images):
        margin = 100 * (images.mean(dim=(1, 2, 3)) - self.level)
        return torch.stack([margin, torch.zeros_like(margin)], dim=1)


def test_benign_models_that_a_mark_sets_off_are_counted(field):
    """All of them react alike: the t-test alone accuses each, the rank among the others clears each."""

    def fit(context, index):
        return lambda images, saliency, role: images if index else 0.8 + 0.2 * images

    fooled = replace(field, benign_models={name: CallsBrightTheTarget() for name in field.benign_models})
    benign_models = compare(Method("bright", Labels.KEEP, fit), fooled)["innocents"]
    assert benign_models["largest_lift"] == pytest.approx(1, abs=0.02)
    assert (benign_models["accused_by_t_test_alone"], benign_models["accused"]) == (3, 0)


def test_for_an_untargeted_mark_the_event_is_leaving_the_own_class(field):
    model, labels = next(iter(field.benign_models.values())), torch.tensor([0, 1, 1])
    images = field.test.images[:3]
    answer, own = module._leaves_own_class(labels, model)(images), predict_probabilities(model, images)
    np.testing.assert_allclose(answer[:, 1], [own[0, 0], own[1, 1], own[2, 1]])
    np.testing.assert_allclose(answer.sum(axis=1), 1)


def test_questions_are_one_a_patient_and_never_of_the_target(field):
    chosen = one_a_patient(field.test, 0, 1000, 0)
    patients = [field.test.patient_ids[i] for i in chosen]
    assert len(set(patients)) == len(patients) and (field.test.labels[chosen] == 1).all()
    assert len(one_a_patient(field.test, 0, 3, 0)) == 3


def test_the_benchmark_resumes_and_writes_its_table(release, field, work, benchmark, tmp_path, monkeypatch):
    quick = {"badnets": METHODS["badnets"], "blended": METHODS["blended"]}
    monkeypatch.setattr(benchmark, "release_of", lambda data, folder, phantoms: release)
    monkeypatch.setattr(benchmark, "METHODS", {"badnets": quick["badnets"]})
    path = tmp_path / "rows.json"
    benchmark.run("phantoms", work, path, PROFILE)
    monkeypatch.setattr(benchmark, "METHODS", quick)
    asked = []
    monkeypatch.setattr(
        benchmark, "compare", lambda method, field: asked.append(method.title) or compare(method, field)
    )
    results = benchmark.run("phantoms", work, path, PROFILE)
    assert asked == ["Blended"] and list(results["rows"]) == ["badnets", "blended"]
    assert json.loads(path.read_text())["rows"].keys() == results["rows"].keys()
    guide = tmp_path / "guide.md"
    guide.write_text("before\n<!-- phantoms -->\nold\n<!-- /phantoms -->\nafter\n")
    for _ in range(2):
        benchmark.write_section(results, guide)
    text = guide.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert text.count("| BadNets |") == text.count("| Blended |") == 1
    benchmark.plot(results, tmp_path / "figure.svg")
    assert "<svg" in (tmp_path / "figure.svg").read_text()
    with pytest.raises(MedmarkError, match="another comparison"):
        benchmark.run("phantoms", work, path, replace(PROFILE, queries=7))
