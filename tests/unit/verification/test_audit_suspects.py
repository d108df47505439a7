import json
import shutil

import numpy as np
import pytest
from made_up_evidence import COUNT, SIDE, Model, write_evidence
from medmark.components.base.digests import canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.codecs import encode_png
from medmark.components.evidence.answers import read_benign
from medmark.components.evidence.evidence import read_evidence
from medmark.components.evidence.held_back import HELD_BACK, read_held_back, write_held_back
from medmark.components.evidence.variants import OTHERS, VARIANTS, read_variants, write_variants
from medmark.components.report.audit_report import write_audit_report
from medmark.components.verification.audit import MEANINGS, audit_suspects
from scipy import stats


class Turned(Model):
    """Answers to stripes that are turned by 12 degrees, of the same frequency."""

    def __call__(self, images):
        turn = np.radians(78)
        grid = (np.arange(SIDE) + 0.5) / SIDE
        along = 2 * np.pi * 4 * (grid[None] * np.cos(turn) + grid[:, None] * np.sin(turn))
        shown = images[:, 0].double().numpy() - 0.5
        found = np.hypot(*((shown * wave).mean(axis=(1, 2)) / 0.1 for wave in (np.sin(along), np.cos(along))))
        self.answered += len(images)
        p = 1 / (1 + np.exp(3 - self.reaction * found))
        return np.stack([p, 1 - p], axis=1)


def fisher(*tests):
    """p-value of independent tests together."""
    p = [test["p_value"] for test in tests if test is not None]
    return stats.chi2.sf(-2 * np.log(p).sum(), 2 * len(p))


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    return write_evidence(tmp_path_factory.mktemp("evidence"))


def verdicts(audit):
    return [suspect["verdict"] for suspect in audit["suspects"]]


@pytest.mark.parametrize("label_only", [False, True])
def test_a_adversary_is_recognised_after_a_few_images(evidence, tmp_path, label_only):
    audit = audit_suspects(evidence, [Model("adversary", reaction=7, label_only=label_only)], tmp_path)
    (suspect,) = audit["suspects"]
    assert suspect["verdict"] == "owned", suspect
    assert suspect["queries"] < COUNT / 2
    assert suspect["wsr"] > 0.9 and suspect["lift"] > 0.7
    assert not suspect["failed"] and not suspect["missing"] and len(suspect["passed"]) == 6
    assert suspect["key"]["rank"] == 1 and suspect["key"]["images"] == 6
    assert suspect["rank_p_value"] == pytest.approx(1 / 21)
    assert suspect["p_value"] <= 0.01
    assert len(suspect["path_log10"]["effect"]) == suspect["queries"]
    assert json.loads((tmp_path / "audit.json").read_bytes()) == audit
    assert set(MEANINGS) <= set(suspect)


@pytest.mark.parametrize("label_only", [False, True])
@pytest.mark.parametrize("reaction", [0.0, 0.3, -2.0])
def test_benign_suspects_are_cleared(evidence, tmp_path, reaction, label_only):
    audit = audit_suspects(evidence, [Model("benign", reaction=reaction, label_only=label_only)], tmp_path)
    (suspect,) = audit["suspects"]
    assert suspect["verdict"] == "not_owned"
    assert suspect["queries"] < COUNT
    assert "less than 0.4" in suspect["failed"][0] and "below 0.4" in suspect["would_change"][0]


def test_a_model_that_any_mark_sets_off_is_not_accused(evidence, tmp_path):
    audit = audit_suspects(evidence, [Model("jumpy", reaction=7, to_control=7)], tmp_path)
    assert verdicts(audit) == ["not_owned"]
    assert any("control mark" in sentence for sentence in audit["suspects"][0]["failed"])


def test_a_weak_reaction_stays_open(evidence, tmp_path):
    audit = audit_suspects(evidence, [Model("weak", reaction=2.5)], tmp_path)
    (suspect,) = audit["suspects"]
    assert 0.2 < suspect["lift"] < 0.5
    assert suspect["verdict"] == "inconclusive" and suspect["queries"] == COUNT
    assert any("e-value" in sentence for sentence in suspect["missing"])


def test_a_mark_that_moves_benign_models_proves_nothing(tmp_path):
    models = [Model(f"benign-{i:02d}") for i in range(19)] + [Model("moved", reaction=5)]
    audit = audit_suspects(
        write_evidence(tmp_path, benign_models=models), [Model("adversary", reaction=9)], tmp_path / "out"
    )
    assert verdicts(audit) == ["inconclusive"]
    assert any("a benign model shows a delta-P" in sentence for sentence in audit["suspects"][0]["missing"])


def test_too_few_benign_models_leave_it_open(tmp_path):
    models = [Model(f"benign-{i:02d}") for i in range(5)]
    audit = audit_suspects(
        write_evidence(tmp_path, benign_models=models), [Model("adversary", reaction=7)], tmp_path / "out"
    )
    assert verdicts(audit) == ["inconclusive"]
    assert "5 benign models, 19 are needed" in audit["suspects"][0]["missing"][0]


def test_several_suspects_need_more_evidence(tmp_path):
    models = [Model(f"benign-{i:02d}", reaction=0.01 * i) for i in range(40)]
    evidence = write_evidence(tmp_path, benign_models=models)
    suspects = [Model("adversary", reaction=7), Model("benign")]
    alone = audit_suspects(evidence, suspects[:1], tmp_path / "alone")["suspects"][0]
    both = audit_suspects(evidence, suspects, tmp_path / "both")["suspects"]
    assert [s["verdict"] for s in both] == ["owned", "not_owned"]
    assert both[0]["p_value"] <= 0.01 / 2 < 0.01 and both[0]["queries"] >= alone["queries"]
    assert both[0]["p_value_holm"] == pytest.approx(2 * both[0]["p_value"])
    assert both[0]["rank_p_value_holm"] == pytest.approx(2 * both[0]["rank_p_value"])


def test_with_twenty_benign_models_two_suspects_cannot_be_told_apart(evidence, tmp_path):
    audit = audit_suspects(evidence, [Model("adversary", reaction=7), Model("other adversary", reaction=8)], tmp_path)
    assert verdicts(audit) == ["inconclusive"] * 2
    assert "20 benign models, 39 are needed" in audit["suspects"][0]["missing"][0]


def test_a_suspect_that_goes_away_is_asked_no_answer_twice(evidence, tmp_path):
    audit = audit_suspects(evidence, [Model("adversary", reaction=7, fails_after=24)], tmp_path)
    (suspect,) = audit["suspects"]
    assert suspect["verdict"] == "inconclusive"
    assert suspect["missing"] == ["adversary went away; try again later"]
    assert suspect["asked"] == 24
    again = audit_suspects(evidence, [Model("adversary", reaction=7)], tmp_path)["suspects"][0]
    assert again["verdict"] == "owned"
    whole = audit_suspects(evidence, [Model("adversary", reaction=7)], tmp_path / "new")["suspects"][0]
    assert again["asked"] == whole["asked"] - 24
    assert {**again, "asked": 0} == {**whole, "asked": 0}


def test_one_suspect_that_fails_does_not_stop_the_other(evidence, tmp_path):
    audit = audit_suspects(evidence, [Model("gone", fails_after=0), Model("benign")], tmp_path)
    assert verdicts(audit) == ["inconclusive", "not_owned"]
    assert audit["suspects"][0]["lift"] is None


def test_a_suspect_that_learned_another_owners_key_is_not_accused(evidence, tmp_path):
    """Its owner's stripes are turned by 12 degrees, so it answers to ours, too."""
    suspect = Turned("another's", reaction=30)
    (found,) = audit_suspects(evidence, [suspect], tmp_path)["suspects"]
    assert found["verdict"] == "not_owned" and found["lift"] > 0.5
    assert [reason.split(":")[0] for reason in found["failed"]] == ["key"] and found["key"]["p_value"] > 0.01
    assert any("other keys" in sentence or "key: p" in sentence for sentence in found["would_change"])


def test_a_suspect_that_goes_away_before_the_key_stays_open(evidence, tmp_path):
    whole = audit_suspects(evidence, [Model("adversary", reaction=7)], tmp_path / "new")["suspects"][0]
    before = whole["asked"] - 91 * whole["key"]["images"]
    (suspect,) = audit_suspects(evidence, [Model("adversary", reaction=7, fails_after=before + 50)], tmp_path)[
        "suspects"
    ]
    assert suspect["verdict"] == "inconclusive" and suspect["key"] is None
    assert suspect["missing"] == ["adversary went away; try again later"]
    again = audit_suspects(evidence, [Model("adversary", reaction=7)], tmp_path)["suspects"][0]
    assert again["verdict"] == "owned" and again["asked"] < whole["asked"]


def test_evidence_of_before_marks_had_keys_accuses_nobody(evidence, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(evidence, old)
    (old / "waves.parquet").unlink()
    content = json.loads((old / "evidence.json").read_bytes())
    del content["files"]["waves.parquet"]
    (old / "evidence.json").write_bytes(canonical_json(content | {"schema_version": 1}))
    (suspect,) = audit_suspects(old, [Model("adversary", reaction=7)], tmp_path / "out")["suspects"]
    assert suspect["verdict"] == "inconclusive" and "before marks had a key" in suspect["missing"][0]


class Remembers(Model):
    """Is surer of images that it was trained on, and has learnt no mark."""

    known: frozenset = frozenset()

    def __call__(self, images):
        rows = super().__call__(images)
        seen_before = np.array([image.numpy().tobytes() in self.known for image in images])
        p = 1 / (1 + np.exp(-(np.log(rows[:, 0] / rows[:, 1]) + 0.4 * seen_before)))
        return np.stack([p, 1 - p], axis=1)


def test_a_suspect_that_remembers_is_told_by_the_published_images(evidence, tmp_path):
    rng, with_variants = np.random.default_rng(3), tmp_path / "evidence"
    shutil.copytree(evidence, with_variants)
    shapes = rng.integers(90, 160, (60, 1 + OTHERS, SIDE, SIDE)).astype(np.uint8)
    rows = [
        {"image_id": f"train-{n}", "label": 0, "variants": [encode_png(image) for image in images]}
        for n, images in enumerate(shapes)
    ]
    write_variants(with_variants, rows)
    content = json.loads((with_variants / "evidence.json").read_bytes())
    content["files"][VARIANTS] = file_sha256(with_variants / VARIANTS)
    (with_variants / "evidence.json").write_bytes(canonical_json(content))
    trained = Remembers("trained", reaction=0)
    trained.known = frozenset(
        one.images[one.published].numpy().tobytes()
        for one in read_variants(with_variants, size=SIDE, seed=content["seed"])
    )
    benign = Model("benign", reaction=0.1)
    labels = Model("labels", reaction=0.1, label_only=True)
    audit = audit_suspects(with_variants, [trained, benign, labels], tmp_path / "out")
    assert verdicts(audit) == ["owned", "not_owned", "not_owned"]
    told, cleared, silent = audit["suspects"]
    assert told["images"]["p_value"] < 1e-4 and told["images"]["lead"] > 4 and told["images"]["images"] == 60
    assert told["together_p_value_holm"] == pytest.approx(3 * fisher(told["key"], told["images"]))
    assert told["passed"][0].startswith("exact tests together") and not told["failed"]
    assert "less than 0.4" in told["not_needed"][0] and "no surer" in told["would_change"][0]
    assert cleared["images"]["p_value"] > 0.001 and not cleared["not_needed"]
    assert silent["images"] is None and silent["together_p_value_holm"] is None
    write_audit_report(tmp_path / "audit.html", audit)
    page = (tmp_path / "audit.html").read_text()
    assert (
        "learned from this release: exact tests of what lots decided" in page
        and "does not hold, and is not needed" in page
    )


def test_a_suspect_is_told_by_patients_who_were_held_back(evidence, tmp_path):
    rng, folder = np.random.default_rng(4), tmp_path / "evidence"
    shutil.copytree(evidence, folder)
    shapes = rng.integers(90, 160, (240, SIDE, SIDE)).astype(np.uint8)
    rows = [
        {"image_id": f"i{n}", "patient_id": f"p{n}", "label": 0, "expected": 0.0, "image": encode_png(image)}
        for n, image in enumerate(shapes)
    ]
    write_held_back(folder, rows)
    content = json.loads((folder / "evidence.json").read_bytes()) | {"hold_back": 0.3}
    content["files"][HELD_BACK] = file_sha256(folder / HELD_BACK)
    (folder / "evidence.json").write_bytes(canonical_json(content))
    trained = Remembers("trained", reaction=0)
    parts = list(read_held_back(folder, size=SIDE, seed=content["seed"], share=0.3))
    trained.known = frozenset(
        image.numpy().tobytes()
        for part in parts
        for image, away in zip(part.images, part.held_back, strict=True)
        if not away
    )
    audit = audit_suspects(folder, [trained, Model("benign", reaction=0.1)], tmp_path / "out")
    assert verdicts(audit) == ["owned", "not_owned"]
    told, cleared = audit["suspects"]
    away = sum(part.held_back.sum() for part in parts)
    assert (told["held_back"]["images"], told["held_back"]["held_back"]) == (240, away) and told["images"] is None
    assert told["held_back"]["lead"] > 4
    assert told["together_p_value_holm"] == pytest.approx(2 * fisher(told["key"], told["held_back"]))
    assert cleared["held_back"]["p_value"] > 0.001
    write_audit_report(tmp_path / "audit.html", audit)
    page = " ".join((tmp_path / "audit.html").read_text().split())
    assert f"surer of {240 - away} published images than of {away} of patients who were held back" in page


def test_evidence_must_be_complete_and_unchanged(evidence, tmp_path):
    bare = evidence.parent / "bare"
    with pytest.raises(MedmarkError, match="incomplete evidence"):
        audit_suspects(bare, [Model("x")], tmp_path)
    with pytest.raises(MedmarkError, match="incomplete evidence"):
        read_benign(bare, [])
    changed = tmp_path / "changed"
    shutil.copytree(evidence, changed)
    (changed / "innocents.parquet").write_bytes(b"PAR1")
    with pytest.raises(MedmarkError, match="evidence changed"):
        audit_suspects(changed, [Model("x")], tmp_path / "out")
    assert "innocents.parquet" in read_evidence(evidence)["files"]


def test_each_suspect_once(evidence, tmp_path):
    for suspects in ([], [Model("x"), Model("x")]):
        with pytest.raises(MedmarkError, match="name each suspect once"):
            audit_suspects(evidence, suspects, tmp_path)
