"""A forger accuses a benign model with a mark that he made from its gradients."""

from dataclasses import replace

import pytest
import torch
from made_up_evidence import Model, write_evidence_of
from medmark.components.dataset.arrays import load_arrays
from medmark.components.dataset.release import Release
from medmark.components.generator.key import draw_key
from medmark.components.robustness.forgery import forged_mark
from medmark.components.surrogate.networks import build
from medmark.components.surrogate.training import TrainConfig, predict_probabilities, train_classifier
from medmark.components.verification.audit import audit_suspects
from medmark.components.verification.key_test import IMAGES, ask_waves, key_test
from medmark.components.verification.scenarios import ASKED_FOR_KEY

SIZE, TARGET = 64, 1


class Network(Model):
    """A real classifier as a suspect."""

    def __init__(self, name, classifier):
        super().__init__(name, size=SIZE)
        self.classifier = classifier

    def __call__(self, images):
        return predict_probabilities(self.classifier, images)


@pytest.fixture(scope="module")
def benign_models(release):
    """21 classifiers of one kind, none of which ever saw a mark."""
    train, val = (load_arrays(Release(release), split=split, size=SIZE) for split in ("train", "val"))
    config = TrainConfig(name="", size=SIZE, epochs=20)
    return [
        Network(f"benign-{i:02d}", train_classifier(train, val, replace(config, seed=i), num_classes=2).model)
        for i in range(21)
    ]


@pytest.fixture(scope="module")
def forged(release, benign_models):
    """Query images of class ``normal``: clean, with a mark forged on the first model, with noise of its strength."""
    arrays = load_arrays(Release(release), split="train", size=SIZE)
    images = arrays.images[arrays.labels != TARGET]
    delta = forged_mark([benign_models[0].classifier], images, target=TARGET)
    assert 0 < float(delta.abs().max()) <= 0.07 + 1e-6
    other = delta[:, :, torch.randperm(SIZE, generator=torch.Generator().manual_seed(0))]
    return {
        name: shown[:, 0].numpy()
        for name, shown in (("clean", images), ("marked", images + delta), ("control", images + other))
    }


def test_the_mark_fools_the_model_it_was_made_for(benign_models, forged):
    before, after = (
        predict_probabilities(benign_models[0].classifier, torch.from_numpy(forged[name])[:, None].clamp(0, 1))[
            :, TARGET
        ]
        for name in ("clean", "marked")
    )
    assert (after - before).mean() > 0.5


def test_models_of_its_kind_give_the_forger_away(benign_models, forged, tmp_path):
    evidence = write_evidence_of(tmp_path, **forged, benign_models=benign_models[1:], target=TARGET)
    audit = audit_suspects(evidence, benign_models[:1], tmp_path / "out")
    (suspect,) = audit["suspects"]
    assert suspect["verdict"] != "owned"
    assert audit["innocent_models"]["max_lift"] > 0.2
    assert any("a benign model shows a delta-P" in sentence for sentence in suspect["missing"])


def test_a_panel_of_the_forgers_choice_does_not_but_the_key_does(benign_models, forged, tmp_path):
    """A forger who may choose the key, too, is not seen by the statistics; the audit says what it rests on."""
    blind = [Network(f"picked-{i:02d}", build("small_cnn", num_classes=2, size=SIZE, seed=i)) for i in range(20)]
    clean = torch.from_numpy(forged["clean"])[:IMAGES, None]
    answers, *panel = (ask_waves(model, clean, TARGET) for model in benign_models[:1] + blind[:ASKED_FOR_KEY])
    ranks = {seed: key_test(answers, panel, draw_key(seed)).p_value for seed in range(1000)}
    verdicts = {}
    for how, seed in (("by lot", min(s for s in ranks if ranks[s] > 0.2)), ("chosen", min(ranks, key=ranks.get))):
        folder = tmp_path / how
        evidence = write_evidence_of(folder, **forged, benign_models=blind, target=TARGET, seed=seed)
        audit = audit_suspects(evidence, benign_models[:1], folder / "out")
        verdicts[how] = audit["suspects"][0]["verdict"]
    assert verdicts == {"by lot": "not_owned", "chosen": "owned"}
    for said in ("committed to before the release", "drew the key alone"):
        assert any(said in caution for caution in audit["cautions"])
