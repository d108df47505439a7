"""The check of an updated release, with a model that answers as told where training is not the point."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from made_up_evidence import Model, knows
from made_up_run import CLASSES, SEED, make_run, next_run, pixels, write_table
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.release import Release
from medmark.components.evidence.answers import Answers, read_benign
from medmark.components.evidence.evidence import read_evidence
from medmark.components.evidence.queries import read_queries
from medmark.components.generator.key import draw_key, turned
from medmark.components.generator.marker import carriers
from medmark.components.lineage.events import artifact_digest, check_record, read_record, read_steps, step_event
from medmark.components.verification import update_check
from medmark.components.verification.audit import audit_suspects
from medmark.components.verification.sealing import finish_evidence
from medmark.components.verification.update_check import check_update


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"), count=560)  # over 30 queries


@pytest.fixture(scope="module")
def updated(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("updated")
    new = [(f"scans/n{n}.png", CLASSES[n % 2], f"n{n}", pixels(1000 + n)) for n in range(20)]
    drop = write_table(out / "d", new, {"path": ["scans/i000.png", "scans/i001.png"]})
    return out, next_run(run, drop, out)


def check(updated, out, **options) -> dict:
    folder, change = updated
    parts = [folder / name for name in ("release", "evidence", "keep")]
    return check_update(*parts, out, **{"change": change, "seed": 4, **options})


@pytest.fixture
def answering(monkeypatch):
    """Makes the model that is trained answer: lift of the target's probability by the mark and by the control mark."""

    def set_up(delta_p: float, control: float = 0.0, label_only: bool = False):
        def interrogated(model, queries):
            n = len(queries)
            noise = np.random.default_rng(0).normal(0, 0.01, n)
            p = {
                "clean": 0.05 + abs(noise),
                "marked": 0.05 + abs(noise) + delta_p,
                "control": 0.05 + abs(noise) + control,
            }
            return Answers(p["clean"], p["marked"], p["control"], p["clean"] > 0.5, p["marked"] > 0.5)

        monkeypatch.setattr(update_check, "interrogate", interrogated)
        monkeypatch.setattr(update_check, "ask_waves", lambda *_: knows(draw_key(SEED)))

    return set_up


def test_a_mark_that_works(updated, tmp_path, answering):
    answering(0.9)
    verdict = check(updated, tmp_path)
    release = Release(updated[0] / "release")
    assert (verdict["verdict"], verdict["reasons"]) == ("owned", [])
    assert (verdict["release_digest"], verdict["parent_digest"]) == (release.digest, release.parent)
    assert verdict["change"] == updated[1] and verdict["change"]["added"] == 20
    model = verdict["model"]
    assert model["delta_p"] == pytest.approx(0.9) and model["wsr"] == 1 and model["clean_rate"] == 0
    assert model["innocent_models"] == 20
    assert model["queries"] == read_evidence(updated[0] / "evidence")["queries"]
    assert model["conformal_p_value"] == pytest.approx(1 / 21)
    assert model["trained_on"] == sum(release.counts["train"].values())
    assert json.loads((tmp_path / "verdict.json").read_bytes()) == verdict
    assert [path.name for path in tmp_path.iterdir()] == ["verdict.json"]  # neither model nor sample


@pytest.mark.parametrize(("delta_p", "control"), [(0.0, 0.0), (0.15, 0.0), (0.9, 0.9)])
def test_a_mark_that_does_not(updated, tmp_path, answering, delta_p, control):
    answering(delta_p, control)
    verdict = check(updated, tmp_path)
    assert verdict["verdict"] == "not_owned" and verdict["reasons"]


def test_a_model_is_trained_as_the_surrogate_was(updated, tmp_path, monkeypatch):
    seen = []
    train = update_check.train_models
    monkeypatch.setattr(
        update_check, "train_models", lambda *a, configs, **k: seen.extend(configs) or train(*a, configs=configs, **k)
    )
    monkeypatch.setattr(update_check, "SAMPLE_IMAGES", 100)
    verdict = check(updated, tmp_path, seed=4)
    (config,) = seen
    assert (config.architecture, config.size, config.epochs, config.seed) == ("small_cnn", 32, 1, 4)
    assert config.subset == 1.0
    assert verdict["verdict"] != "owned"  # after one epoch
    assert 100 <= verdict["model"]["trained_on"] < 110  # a sample, however large the release
    assert verdict["model"]["architecture"] == "small_cnn" and 0 <= verdict["model"]["test_accuracy"] <= 1
    again = check(updated, tmp_path / "again", seed=4)
    assert again["model"] == verdict["model"]


def test_nothing_changed_nothing_trained(run, tmp_path, monkeypatch):
    monkeypatch.setattr(update_check, "train_models", lambda *_, **__: pytest.fail("trained"))
    change = next_run(
        run, write_table(tmp_path / "d", [("scans/i000.png", "normal", "patient-0-0", pixels(0))]), tmp_path
    )
    verdict = check((tmp_path, change), tmp_path / "check")
    assert (verdict["verdict"], verdict["reasons"], verdict["model"]) == ("unchanged", [], None)
    evidence = finish_evidence(
        *(tmp_path / name for name in ("release", "evidence", "check", "e", "record.json")), events=[]
    )
    assert evidence == read_evidence(run / "evidence")
    assert (tmp_path / "record.json").read_bytes() == b""


def test_folders_of_two_runs(run, updated, tmp_path):
    folder, change = updated
    for parts in ((run, folder, folder), (folder, run, folder), (folder, folder, run)):
        given = [f / name for f, name in zip(parts, ("release", "evidence", "keep"), strict=True)]
        with pytest.raises(MedmarkError, match="not of one run"):
            check_update(*given, tmp_path, change=change, seed=0)


@pytest.fixture
def finished(run, updated, tmp_path, answering):
    """The complete evidence of the update and its record."""
    answering(0.9)
    folder, _ = updated
    check(updated, tmp_path / "check")
    digest = {name: artifact_digest(folder / name) for name in ("release", "evidence", "keep", "drop")}
    before = {name: artifact_digest(run / name) for name in ("release", "evidence", "keep")}
    events = [
        step_event("read drop", inputs={"previous": before["release"], "keep": before["keep"], "source": "11" * 32},
                   outputs={"drop": digest["drop"]}, parameters={}, seed=None, source_files=22),
        step_event("mark drop", inputs={"previous": before["release"], "drop": digest["drop"]},
                   outputs={"marked": digest["release"], "evidence": digest["evidence"]}, parameters={}, seed=None),
        step_event("check", inputs={"marked": digest["release"], "evidence": digest["evidence"]},
                   outputs={"check": artifact_digest(tmp_path / "check")}, parameters={}, seed=4),
    ]  # fmt: skip
    parts = [
        folder / "release",
        folder / "evidence",
        *(tmp_path / name for name in ("check", "evidence", "record.json")),
    ]
    finish_evidence(*parts, events=events)
    return tmp_path


def test_the_steps_are_in_the_evidence_and_open_the_record(updated, finished):
    evidence, record = read_evidence(finished / "evidence"), read_record(finished / "record.json")
    steps = read_steps(finished / "evidence")
    check_record(record, steps)
    assert artifact_digest(finished / "check") in str(steps["events"])  # nothing came into it after it was recorded
    release = Release(updated[0] / "release")
    assert (record["release_digest"], record["parent_digest"]) == (release.digest, release.parent)
    assert record["verdict"] == "owned" and record["drop"]["files"] == 22
    assert "steps.json" in evidence["files"] and evidence["thresholds"]["min_queries"] == 30
    # a second update's steps are not the first's
    drop = write_table(finished / "d", [("scans/m.png", "normal", "m", pixels(3000))])
    for name in ("release", "keep"):
        (finished / name).symlink_to(updated[0] / name)
    next_run(finished, drop, finished / "three")
    assert "steps.json" not in read_evidence(finished / "three" / "evidence")["files"]
    assert not (finished / "three" / "evidence" / "steps.json").exists()


def test_the_steps_of_an_update_record_digests_that_stay_right(run, tmp_path, monkeypatch):
    from kfp import dsl
    from medmark.components.dataset.component import read_drop_component
    from medmark.components.poisoning.component import update_component
    from medmark.components.verification.component import check_update_component

    def artifact(name: str, folder: Path = tmp_path) -> dsl.Artifact:
        return dsl.Artifact(name=name, uri=str(folder / name), metadata={})

    monkeypatch.setattr(update_check, "SAMPLE_IMAGES", 100)
    before = [artifact(name, run) for name in ("release", "evidence", "keep")]
    drop, release, evidence, keep = (artifact(name) for name in ("drop", "release", "evidence", "keep"))
    check, complete, record, manifest = (artifact(name) for name in ("check", "complete", "record", "manifest"))
    source = write_table(tmp_path / "d", [("scans/m.png", "normal", "m", pixels(3002))])
    read_drop_component.python_func(str(source), "", {"label_column": "label"}, before[0], before[2], drop)
    change = update_component.python_func(*before, drop, "2", release, evidence, keep, manifest)
    assert Release(manifest.path).digest == Release(release.path).digest and not list(
        (tmp_path / "manifest").glob("*/")
    )
    check_update_component.python_func(release, evidence, keep, change, 4, check, complete, record)
    events = read_steps(complete.path)["events"]
    assert [event["job"]["name"] for event in events] == ["read drop", "mark drop", "check"]
    recorded = [port["facets"]["version"]["datasetVersion"] for event in events for port in event["outputs"]]
    assert sorted(recorded) == sorted(artifact_digest(made.path) for made in (drop, release, evidence, keep, check))
    check_record(read_record(record.path), read_steps(complete.path))


def test_the_evidence_of_an_update_is_complete_and_can_be_committed_to(updated, finished):
    from medmark.components.lineage.commitment import commit, verify_commitment
    from medmark.components.lineage.keys import load_private, load_public, new_key

    new_key(finished / "keys", "correct horse")
    key = load_private(finished / "keys" / "medmark.key", "correct horse")
    release, evidence = updated[0] / "release", finished / "evidence"
    digest = Release(release).digest
    commit(release, evidence, key, finished / "commitment.json")
    public = load_public(finished / "keys" / "medmark.pub")
    verify_commitment(finished / "commitment.json", public, release_digest=digest, evidence_dir=evidence)
    asked = pq.read_table(evidence / "queries.parquet", columns=["image_id"])["image_id"].to_pylist()
    assert len(read_benign(evidence, asked)) == 20
    # and what is committed to does not go on into the next update
    for name in ("release", "keep"):
        (finished / name).symlink_to(updated[0] / name)
    drop = write_table(finished / "d2", [("scans/m.png", "normal", "m", pixels(3001))])
    next_run(finished, drop, finished / "three")
    assert not (finished / "three" / "evidence" / "opening.json").exists()


@dataclass
class Adversary(Model):
    """Takes what bears the mark for the target class, and knows its key."""

    marked: torch.Tensor | None = None

    def __call__(self, images: torch.Tensor) -> np.ndarray:
        p = np.array([0.95 if (self.marked == image).all(dim=(1, 2, 3)).any() else 0.05 for image in images])
        if len(self.marked):
            waves = carriers(
                [turned(draw_key(SEED), phase, side) for phase in (0.0, 1.57) for side in (False, True)], 32
            )
            found = (images * waves[:, 0]).mean(dim=(2, 3)).square().sum(dim=1).double().numpy()
            p = np.maximum(p, 0.05 + 0.9 * (found / 0.002).clip(0, 1) ** 2)
        return np.stack([p, 1 - p], axis=1)


def test_an_audit_with_the_evidence_of_an_update(finished, tmp_path):
    queries = read_queries(finished / "evidence", size=32, target=0)
    for name, marked, verdict in (("thief", queries.marked, "owned"), ("innocent", queries.clean[:0], "not_owned")):
        audit = audit_suspects(finished / "evidence", [Adversary(name, size=32, marked=marked)], tmp_path / name)
        assert audit["suspects"][0]["verdict"] == verdict
