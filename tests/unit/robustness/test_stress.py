import json
from dataclasses import replace
from xml.etree import ElementTree

import pandas as pd
import pytest
import torch
from made_up_evidence import SIDE, Model, write_evidence
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.arrays import load_arrays
from medmark.components.dataset.ingest import ingest
from medmark.components.dataset.phantoms import make_phantoms
from medmark.components.dataset.release import Release
from medmark.components.evidence.queries import read_queries
from medmark.components.generator.marker import Shape
from medmark.components.generator.train import GeneratorConfig, train_generator
from medmark.components.poisoning.poison import poison
from medmark.components.robustness.attacks import ATTACKS, Attack, choose
from medmark.components.robustness.stress import Judging, ask, prepare, stress
from medmark.components.surrogate.models import load_models, train_models
from medmark.components.surrogate.networks import build
from medmark.components.surrogate.training import TrainConfig, predict_probabilities
from medmark.components.verification.interrogation import interrogate

MARKED_MODELS = [
    TrainConfig(name="same", size=64, epochs=1, seed=1),
    TrainConfig(name="other", architecture="small_cnn_wide", size=64, epochs=1, seed=2),
]


@pytest.fixture(scope="module")
def marked(release, surrogates, saliency, tmp_path_factory):
    out = tmp_path_factory.mktemp("stressed")
    config = GeneratorConfig(shape=Shape(size=64, grid=32), steps=0, marked_share=0.2, decoy_share=0.0)
    for index in (0, 1):
        here = replace(config, key_index=index)
        train_generator(release, surrogates, saliency, out / f"g{index}", target_class="normal", config=here, seed=5)
    poison(release, out / "g0", out / "g1", saliency, out / "release", out / "evidence", version="1m", queries=10)
    return out / "release", out / "evidence"


class Counted:
    """A stand-in for an attack's function that counts its calls and can break off."""

    def __init__(self, run):
        self.run, self.calls, self.breaks_at = run, [], None

    def __call__(self, adversary, strength):
        if strength == self.breaks_at:
            raise KeyboardInterrupt
        self.calls.append((adversary.config.name, strength))
        return self.run(adversary, strength)


def one_of_each_kind():
    """An attack of each kind at one strength, and one that does nothing at three."""
    wanted = [("pruning", "model", (0.9,)), ("mixing", "data", (0.5,)), ("notch filter", "pipeline", (1,))]
    by_name = {(attack.name, attack.kind): attack for attack in ATTACKS}
    counted = Counted(lambda adversary, strength: lambda images: images)
    nothing = Attack("nothing", "queries", (1.0, 2.0, 3.0), "times", counted)
    return (nothing, *(replace(by_name[n, k], strengths=s) for n, k, s in wanted)), counted


@pytest.fixture(scope="module")
def finished(marked, tmp_path_factory):
    out = tmp_path_factory.mktemp("stress")
    attacks, _ = one_of_each_kind()
    train_models(
        marked[0], out / "victims", configs=MARKED_MODELS, workers=1
    )  # here, which is faster than two processes
    return out, stress(*marked, out, marked_models=MARKED_MODELS, attacks=attacks)


def test_a_row_for_every_marked_model_attack_and_strength(finished):
    _, table = finished
    assert len(table) == 2 * (1 + 3 + 1 + 1 + 1)
    assert table.attack[:2].tolist() == ["none", "none"]
    assert not table.duplicated(["victim", "kind", "attack", "strength"]).any()
    assert table[["wsr", "clean_rate", "accuracy", "accuracy_before"]].stack().between(0, 1).all()
    before = table[table.attack == "none"].set_index("victim").accuracy
    assert (table.accuracy_before == table["victim"].map(before)).all()


def test_an_attack_that_does_nothing_changes_no_number(finished):
    _, table = finished
    numbers = ["wsr", "clean_rate", "delta_p", "accuracy"]
    for _, part in table[table.attack.isin(["none", "nothing"])].groupby("victim"):
        assert len(part[numbers].drop_duplicates()) == 1


def test_the_files_hold_the_table(finished, marked):
    out, table = finished
    result = json.loads((out / "stress.json").read_bytes())
    pd.testing.assert_frame_equal(pd.DataFrame(result["rows"]), table, check_like=True)
    assert result["release_digest"] == Release(marked[0]).digest and result["target_class"] == "normal"
    assert set(result["detection"]) == {"same", "other"}
    assert set(result["detection"]["same"]["auc"]) == {
        "SCALE-UP",
        "SCALE-UP among target answers",
        "spectral signatures",
        "activation clustering",
    }
    pd.testing.assert_frame_equal(pd.read_csv(out / "stress.csv"), table)
    assert ElementTree.fromstring((out / "stress.svg").read_bytes()).tag.endswith("svg")


def test_the_numbers_are_those_of_the_models_answers(finished, marked):
    out, table = finished
    queries = read_queries(marked[1], size=64, target=0)
    test = load_arrays(Release(marked[0]), split="test", size=64)
    model = load_models(out / "victims")[0][1]
    asked, clean = (predict_probabilities(model, images)[:, 0] for images in (queries.marked, queries.clean))
    row = table[(table.attack == "none") & (table["victim"] == "same")].iloc[0]
    assert row.wsr == (asked > 0.5).mean() and row.clean_rate == (clean > 0.5).mean()
    assert row.delta_p == pytest.approx((asked - clean).mean())
    assert row.accuracy == (predict_probabilities(model, test.images).argmax(1) == test.labels.numpy()).mean()
    partial = build("small_cnn", num_classes=2, size=64, seed=0).eval()
    partial.network.head[1].weight.data.zero_()
    partial.network.head[1].bias.data = torch.tensor([3.0, -3.0])
    given, _ = prepare(*marked, MARKED_MODELS, None, 0)
    always = ask(partial, given)
    assert (always["wsr"], always["clean_rate"], always["delta_p"]) == (1.0, 1.0, 0.0)
    assert always["accuracy"] == (test.labels == 0).float().mean()


def test_incomplete_evidence_judges_nobody(finished):
    _, table = finished
    assert set(table.verdict) == {"not judged"} and set(table.lacks) == {"complete evidence"}


def test_attacked_models_are_judged_as_a_release_check_judges_them(tmp_path):
    evidence = write_evidence(tmp_path)
    judging, queries = Judging.read(evidence, SIDE), read_queries(evidence, size=SIDE, target=0)

    def judged(suspect):
        return judging.verdict(suspect, interrogate(suspect, queries), queries)

    assert judged(Model("marked", reaction=7)) == {"verdict": "owned", "lacks": "nothing"}
    benign = Model("benign", reaction=0.2)
    found = judged(benign)
    assert found["verdict"] == "not_owned" and "t-test" in found["lacks"].split(", ")
    assert benign.answered == 3 * len(queries)  # and about no wave
    everything = Model("answers to any stripes", reaction=7, to_control=7)
    assert "control mark" in judged(everything)["lacks"]


def test_a_stopped_run_goes_on_and_gives_the_same(finished, marked, tmp_path):
    attacks, counted = one_of_each_kind()
    counted.breaks_at = 2.0
    with pytest.raises(KeyboardInterrupt):
        stress(*marked, tmp_path, marked_models=MARKED_MODELS[:1], attacks=attacks)
    with (tmp_path / "rows.jsonl").open("a") as stream:
        stream.write('{"attack": "not')  # the machine went down while a line was written
    counted.breaks_at = None
    table = stress(*marked, tmp_path, marked_models=MARKED_MODELS[:1], attacks=attacks)
    assert len(counted.calls) == len(set(counted.calls)) == 3
    expected = finished[1][finished[1]["victim"] == "same"].reset_index(drop=True)
    pd.testing.assert_frame_equal(table.drop(columns="seconds"), expected.drop(columns="seconds"))
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert len(lines) == 1 + len(table)
    counted.calls.clear()
    again = stress(*marked, tmp_path, marked_models=MARKED_MODELS[:1], attacks=attacks)
    pd.testing.assert_frame_equal(again, table)
    assert not counted.calls


def test_rows_of_another_run_are_not_mixed_in(finished, marked):
    with pytest.raises(MedmarkError, match="rows of another run"):
        stress(*marked, finished[0], marked_models=MARKED_MODELS, attacks=(), seed=1)


def test_damaged_rows_are_refused(marked, tmp_path):
    (tmp_path / "rows.jsonl").write_text("[1\n")
    with pytest.raises(MedmarkError, match="damaged rows"):
        stress(*marked, tmp_path, marked_models=MARKED_MODELS, attacks=())


def test_evidence_of_another_release_is_refused(release, marked, tmp_path):
    with pytest.raises(MedmarkError, match="evidence of another release"):
        stress(release, marked[1], tmp_path, marked_models=MARKED_MODELS)
    with pytest.raises(MedmarkError, match="marked models of sizes"):
        stress(*marked, tmp_path, marked_models=[])


def test_images_of_another_release_count_as_clean(marked, tmp_path):
    other = tmp_path / "other"
    ingest(make_phantoms(tmp_path / "source", count=60, size=64, seed=9), other, name="other", seed=1)
    seen = []
    spy = Attack("spy", "model", (1,), "", lambda adversary, strength: seen.append(adversary) or adversary.marked_model)
    stress(*marked, tmp_path / "out", marked_models=MARKED_MODELS[:1], attacks=(spy,), other_release_dir=other)
    adversary = seen[0]
    assert set(adversary.clean.image_ids) == {r.image_id for r in Release(other).records()} | set(
        adversary.val.image_ids
    )
    assert len(adversary.pool) == len(adversary.clean) + int((adversary.train.labels == 1).sum())
    assert torch.equal(
        adversary.pool.images[adversary.pool.labels == 0], adversary.clean.images[adversary.clean.labels == 0]
    )
    classes = tmp_path / "classes"
    ingest(tmp_path / "source", classes, name="other", class_names=["pneumonia", "normal"], seed=1)
    with pytest.raises(MedmarkError, match="classes .* are not"):
        stress(*marked, tmp_path / "no", marked_models=MARKED_MODELS[:1], other_release_dir=classes)


def test_every_attack_has_its_own_name_and_rising_force():
    assert len({(attack.name, attack.kind) for attack in ATTACKS}) == len(ATTACKS)
    assert all(len(set(attack.strengths)) == len(attack.strengths) for attack in ATTACKS)
    assert {attack.kind for attack in ATTACKS} == {"model", "data", "queries", "pipeline"}


def test_attacks_are_chosen_by_name():
    assert choose([]) == ATTACKS
    assert {(attack.name, attack.kind) for attack in choose(["notch filter", "pruning"])} == {
        ("notch filter", "queries"),
        ("notch filter", "pipeline"),
        ("pruning", "model"),
    }
    with pytest.raises(MedmarkError, match="unknown attack: 'magic'; use one of fine-tuning"):
        choose(["magic"])
