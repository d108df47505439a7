"""What ``audit.json`` says suffices for the other side to ask the same again."""

import hashlib
import json
import shutil
import sqlite3
from pathlib import Path

import onnx
import pytest
import torch
from made_up_evidence import CLASSES, SIDE, Model, write_evidence
from medmark.components.base.errors import MedmarkError
from medmark.components.report.audit_report import write_audit_report
from medmark.components.suspects.contract import Contract
from medmark.components.suspects.http import Connection
from medmark.components.verification.audit import AUDIT_SCHEMA_VERSION, audit_suspects
from medmark.components.verification.audit import audit as ask
from medmark.pipelines.audit_suspect.run import refuse_finished
from scripted_server import running

FIXTURES = Path(__file__).parents[2] / "fixtures"
CONTRACT = {"scale": 255.0, "mean": 100.0, "std": 50.0, "answers": "logits", "classes": ["pneumonia", "normal"]}


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    benign_models = [Model(f"benign-{i:02d}", reaction=0.01 * i) for i in range(40)]
    return write_evidence(tmp_path_factory.mktemp("evidence"), benign_models=benign_models)


def answers(out):
    with sqlite3.connect(out / "answers.sqlite") as file:
        return sorted(file.execute("SELECT suspect, image, row FROM answers"))


def as_logits(images):
    values = torch.tensor(images)[:, 0].double()
    logits = torch.stack([values.mean(dim=(1, 2)), values[:, 0].mean(dim=1)], dim=1)
    return {"name": "p", "datatype": "FP64", "shape": list(logits.shape), "data": logits.ravel().tolist()}


def test_an_audit_is_repeated_from_what_it_says(evidence, tmp_path, monkeypatch):
    monkeypatch.delenv("MEDMARK_SUSPECT_TOKEN", raising=False)
    text = f"(float[N,3,{SIDE},{SIDE}] x) => (float[N,2] y, float[N,2] z) {{ f = Flatten(x)"
    text += "  at = Constant<value = int64[2] {0, 1}>()  y = Gather<axis=1>(f, at)  z = Neg(y) }"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> agraph {text}')
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with running() as server:
        server.metadata["inputs"][0]["shape"] = [-1, 1, SIDE, SIDE]
        server.answer = as_logits
        for target, more, batch in ((str(tmp_path / "m.onnx"), {"output": "z"}, 32), (server.url, {}, 3)):
            first, second = tmp_path / f"first-{batch}", tmp_path / f"second-{batch}"
            ask(
                evidence,
                [target],
                first,
                contract=Contract.from_json(CONTRACT | more),
                connection=Connection(batch_size=3),
            )
            (said,) = json.loads((first / "audit.json").read_bytes())["suspects"]
            connection = Connection(batch_size=said["batch_size"])
            contract = Contract.from_json(said["contract"])
            ask(evidence, [said["name"]], second, contract=contract, connection=connection)
            (again,) = json.loads((second / "audit.json").read_bytes())["suspects"]
            assert again == said and said["batch_size"] == batch
            assert answers(first) == answers(second) and len(answers(first)) > 3


def test_everything_that_makes_the_identity_is_said(evidence, tmp_path, monkeypatch):
    monkeypatch.delenv("MEDMARK_SUSPECT_TOKEN", raising=False)
    with running() as server:
        server.metadata["inputs"][0]["shape"] = [-1, 1, SIDE, SIDE]
        server.answer = as_logits
        audit = ask(evidence, [server.url], tmp_path, contract=Contract.from_json(CONTRACT))
    (suspect,) = audit["suspects"]
    assert audit["schema_version"] == AUDIT_SCHEMA_VERSION == 6 and audit["class_names"] == CLASSES
    assert suspect["contract"] == CONTRACT | {
        "size": SIDE,
        "channels": 1,
        "input": "x",
        "output": "p",
        "classes": ["pneumonia", "normal"],
    }
    assert suspect["description"] == server.metadata
    described = json.dumps([suspect["name"], suspect["description"]], sort_keys=True)
    assert suspect["model"] == hashlib.sha256(described.encode()).hexdigest()
    stated = suspect["contract"] | {"model": suspect["model"], "evidence": audit["class_names"]}
    assert suspect["identity"] == hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()
    write_audit_report(tmp_path / "audit.html", audit)
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    for shown in ("255, 100, 50", "logits", "pneumonia, normal", f"{SIDE} px", "at most 8", suspect["model"]):
        assert shown in page
    assert "&#34;platform&#34;: &#34;onnx&#34;" in page


def test_an_unfinished_audit_of_the_first_version_goes_on(evidence, tmp_path):
    """Its second suspect went away after 24 answers."""
    out = tmp_path / "out"
    shutil.copytree(FIXTURES / "audit-v1", out)
    before = json.loads((out / "audit.json").read_bytes())
    assert before["schema_version"] == 1
    refuse_finished(out)
    suspects = [Model("thief", reaction=7), Model("innocent")]
    audit = audit_suspects(evidence, suspects, out)
    assert [s["verdict"] for s in audit["suspects"]] == ["owned", "not_owned"]
    assert audit["suspects"][0]["identity"] == before["suspects"][0]["identity"]
    whole = audit_suspects(evidence, [Model("thief", reaction=7), Model("innocent")], tmp_path / "new")
    # the first version asked the first suspect all but about the key
    assert audit["suspects"][0]["asked"] == whole["suspects"][0]["asked"] - len(answers(FIXTURES / "audit-v1")) + 24
    assert audit["suspects"][1]["asked"] == whole["suspects"][1]["asked"] - 24 > 0


def test_audits_of_the_second_version_stay_readable(tmp_path):
    """One suspect was recognised, one did not open."""
    audit = json.loads((FIXTURES / "audit-v2" / "audit.json").read_bytes())
    refuse_finished(shutil.copytree(FIXTURES / "audit-v2", tmp_path / "out"))
    assert audit["schema_version"] == 2
    adversary, gone = audit["suspects"]
    assert Contract(**adversary["contract"]) == Contract(size=SIDE, channels=1, input="x", output="y", classes=CLASSES)
    assert (gone["contract"]["answers"], gone["model"], gone["identity"]) == ("logits", None, None)
    write_audit_report(tmp_path / "audit.html", audit)
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert adversary["identity"] in page and gone["missing"][0] in page and "not opened" in page


def test_audits_of_the_third_version_stay_readable(tmp_path):
    audit = json.loads((FIXTURES / "audit-v3" / "audit.json").read_bytes())
    with pytest.raises(MedmarkError, match="finished audit"):
        refuse_finished(shutil.copytree(FIXTURES / "audit-v3", tmp_path / "out"))
    assert audit["schema_version"] == 3 and audit["suspects"][0]["key"]["rank"] == 1
    write_audit_report(tmp_path / "audit.html", audit)
    assert "1 of 1,800" in (tmp_path / "audit.html").read_text(encoding="utf-8")


def test_audits_of_the_fourth_version_stay_readable(tmp_path):
    audit = json.loads((FIXTURES / "audit-v4" / "audit.json").read_bytes())
    with pytest.raises(MedmarkError, match="finished audit"):
        refuse_finished(shutil.copytree(FIXTURES / "audit-v4", tmp_path / "out"))
    (suspect,) = audit["suspects"]
    assert audit["schema_version"] == 4 and suspect["images"]["p_value"] < 1e-4 and suspect["not_needed"]
    write_audit_report(tmp_path / "audit.html", audit)
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert (
        "learned from this release: exact tests of what lots decided" in page
        and "does not hold, and is not needed" in page
    )


def test_audits_of_the_fifth_version_stay_readable(tmp_path):
    audit = json.loads((FIXTURES / "audit-v5" / "audit.json").read_bytes())
    with pytest.raises(MedmarkError, match="finished audit"):
        refuse_finished(shutil.copytree(FIXTURES / "audit-v5", tmp_path / "out"))
    (suspect,) = audit["suspects"]
    assert audit["schema_version"] == 5 and suspect["key"]["images"] == 6
    write_audit_report(tmp_path / "audit.html", audit)
    assert "waves in 6 images" in " ".join((tmp_path / "audit.html").read_text(encoding="utf-8").split())


def test_audits_of_the_sixth_version_stay_readable(tmp_path):
    audit = json.loads((FIXTURES / "audit-v6" / "audit.json").read_bytes())
    with pytest.raises(MedmarkError, match="finished audit"):
        refuse_finished(shutil.copytree(FIXTURES / "audit-v6", tmp_path / "out"))
    suspect = audit["suspects"][0]
    assert audit["schema_version"] == 6 and suspect["held_back"]["p_value"] < 1e-3
    write_audit_report(tmp_path / "audit.html", audit)
    page = " ".join((tmp_path / "audit.html").read_text(encoding="utf-8").split())
    assert "of patients who were held back" in page and "does not hold, and is not needed" in page
