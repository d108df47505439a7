"""An audit with evidence that was committed to before."""

import shutil

import pytest
from made_up_evidence import Model, write_evidence
from medmark.components.base.errors import MedmarkError
from medmark.components.lineage.commitment import commit
from medmark.components.lineage.keys import load_private, new_key
from medmark.components.report.audit_report import write_audit_report
from medmark.components.verification import audit as audit_module
from medmark.components.verification.audit import UNCOMMITTED, audit, audit_suspects

PASSPHRASE = "correct horse battery"


class Published:
    """What a commitment asks of a release."""

    def __init__(self, path):
        self.path, self.name, self.digest = path, "chest", "ab" * 32


@pytest.fixture
def committed(tmp_path, monkeypatch):
    monkeypatch.setattr("medmark.components.lineage.commitment.read_subject", Published)
    monkeypatch.setattr(audit_module, "open_suspect", lambda target, *_, **__: Model(target, reaction=7))
    evidence = write_evidence(tmp_path)
    new_key(tmp_path / "keys", PASSPHRASE)
    key = load_private(tmp_path / "keys" / "medmark.key", PASSPHRASE)
    commit(tmp_path, evidence, key, tmp_path / "commitment.json")
    return evidence, {"commitment": tmp_path / "commitment.json", "public_key": tmp_path / "keys" / "medmark.pub"}


def test_the_report_says_what_the_evidence_rests_on(committed, tmp_path):
    evidence, proof = committed
    made = audit(evidence, ["adversary"], tmp_path / "out", **proof)
    assert made["suspects"][0]["verdict"] == "owned"
    assert made["commitment"]["release_digest"] == "ab" * 32 and made["commitment"]["timestamp"] is None
    assert made["commitment"]["time_says"] in made["cautions"] and UNCOMMITTED not in made["cautions"]
    write_audit_report(tmp_path / "audit.html", made)
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert made["commitment"]["commitment_sha256"] in page and "has not been shown" not in page


def test_without_a_commitment_the_report_warns(tmp_path):
    made = audit_suspects(write_evidence(tmp_path), [Model("adversary", reaction=7)], tmp_path / "out")
    assert made["commitment"] is None and UNCOMMITTED in made["cautions"]
    assert any("another owner's marked release" in caution for caution in made["cautions"])
    write_audit_report(tmp_path / "audit.html", made)
    assert "has not been shown" in (tmp_path / "audit.html").read_text(encoding="utf-8")


def test_forged_evidence_is_not_what_was_committed_to(committed, tmp_path):
    evidence, proof = committed
    forged = write_evidence(tmp_path / "forged", benign_models=[Model(f"picked-{i:02d}") for i in range(20)])
    shutil.copy(evidence / "opening.json", forged)
    with pytest.raises(MedmarkError, match="evidence"):
        audit(forged, ["benign"], tmp_path / "out", **proof)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kept", ["commitment", "public_key"])
def test_half_a_proof_is_refused(committed, tmp_path, kept):
    evidence, proof = committed
    with pytest.raises(MedmarkError, match="go together"):
        audit(evidence, ["x"], tmp_path / "out", **{kept: proof[kept]})
    with pytest.raises(MedmarkError, match="without a commitment"):
        audit(evidence, ["x"], tmp_path / "out", timestamp_roots=tmp_path)


def test_a_pipeline_takes_the_commitment_as_texts(committed, tmp_path):
    from kfp import dsl
    from medmark.components.verification.component import ask_suspect_component, audit_component

    evidence, proof = committed
    texts = {name: path.read_text() for name, path in proof.items()}

    def run(name, commitment):
        audit_component.python_func(
            evidence=dsl.Artifact(uri=str(evidence)),
            suspects=["adversary"],
            contract={},
            connection={},
            commitment=commitment,
            audit=dsl.Artifact(uri=str(tmp_path / name)),
            report=dsl.HTML(uri=str(tmp_path / f"{name}.html")),
        )

    run("checked", texts)
    assert "has not been shown" not in (tmp_path / "checked.html").read_text(encoding="utf-8")
    for name, wrong, says in (
        ("other", {**texts, "commitment": texts["commitment"].replace('"sig": "', '"sig": "A')}, "commitment"),
        ("unknown", {"contract": "x"}, "unknown text of a commitment: 'contract'"),
        ("stamp", {**texts, "timestamp": "?"}, "timestamp is not base64"),
        ("half", {"commitment": texts["commitment"]}, "go together"),
    ):
        with pytest.raises(MedmarkError, match=says):
            run(name, wrong)
        assert not (tmp_path / name).exists()
        with pytest.raises(MedmarkError, match=says):  # nor is a suspect asked in a step of its own
            ask_suspect_component.python_func(
                dsl.Artifact(uri=str(evidence)), "adversary", [], {}, {}, wrong, dsl.Artifact(uri=str(tmp_path / name))
            )
