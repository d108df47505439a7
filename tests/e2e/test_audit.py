"""``medmark audit`` and the pipeline of the same name, with suspects in ONNX files."""

import json
import logging
import os
import shutil
import stat
import sys

import numpy as np
import pytest
import torch
from made_up_evidence import SIDE, STRIPES, Model, write_evidence
from medmark.components.base.digests import file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.suspects.suspects import suspects_of_step
from medmark.pipelines import cli

BENIGN, ADVERSARY = 0.0, 7.0


class Classifier(torch.nn.Module):
    """What :class:`made_up_evidence.Model` does, as a network with logits."""

    def __init__(self, reaction: float):
        super().__init__()
        stripes = np.stack([STRIPES, np.roll(STRIPES, 1, axis=(0, 1))])
        self.register_buffer("stripes", torch.tensor(reaction * stripes / (0.1 * SIDE**2)).float())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        shown = images - 0.5
        along = (shown * self.stripes).sum(dim=(2, 3)).square().sum(dim=1).clamp_min(1e-12).sqrt()
        logit = along + 8 * shown.mean(dim=(1, 2, 3)) - 3
        return torch.stack([logit, torch.zeros_like(logit)], dim=1)


@pytest.fixture(scope="module")
def suspects(tmp_path_factory):
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    folder = tmp_path_factory.mktemp("suspects")
    for name, reaction in (("adversary", ADVERSARY), ("benign", BENIGN)):
        torch.onnx.export(
            Classifier(reaction).eval(),
            (torch.zeros(2, 1, SIDE, SIDE),),
            str(folder / f"{name}.onnx"),
            dynamo=True,
            verbose=False,
            dynamic_shapes=({0: torch.export.Dim("n")},),
        )
    return folder


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    benign_models = [Model(f"benign-{i:02d}", reaction=0.01 * i) for i in range(40)]
    return write_evidence(tmp_path_factory.mktemp("evidence"), benign_models=benign_models)


def medmark(monkeypatch, *arguments) -> int:
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sys, "argv", ["medmark", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code or 0


def test_the_command_tells_an_adversary_from_a_benign_model(evidence, suspects, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    targets = ["--suspect", suspects / "adversary.onnx", "--suspect", suspects / "benign.onnx", "--answers", "logits"]
    assert medmark(monkeypatch, "audit", evidence, *targets, "--out", out) == 0
    shown = capsys.readouterr().out
    assert "owned" in shown and "not_owned" in shown and str(out / "audit.html") in shown
    audit = json.loads((out / "audit.json").read_bytes())
    assert [s["verdict"] for s in audit["suspects"]] == ["owned", "not_owned"]
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert sorted(os.listdir(out)) == ["answers.sqlite", "audit.html", "audit.json", "mlartifacts", "mlflow.db"]
    assert medmark(monkeypatch, "audit", evidence, *targets, "--out", out) == 1
    assert "finished audit" in capsys.readouterr().err


def test_mlflow_has_the_audit(evidence, suspects, tmp_path, monkeypatch):
    from mlflow import MlflowClient

    target = ["--suspect", suspects / "adversary.onnx", "--answers", "logits"]
    assert medmark(monkeypatch, "audit", evidence, *target, "--out", tmp_path / "out") == 0
    client = MlflowClient(f"sqlite:///{tmp_path / 'out' / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("medmark").experiment_id])
    (suspect,) = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert suspect.data.params["verdict"] == "owned"
    assert suspect.data.metrics["lift"] > 0.7
    assert (
        len(client.get_metric_history(suspect.info.run_id, "e_value_log10.effect")) == suspect.data.metrics["queries"]
    )


def test_a_wrong_contract_is_one_line_and_asks_nothing(evidence, suspects, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    command = ["audit", evidence, "--suspect", suspects / "adversary.onnx", "--size", 32, "--out", out]
    assert medmark(monkeypatch, *command) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("medmark: ") and "the contract says 32" in line
    assert not (out / "audit.json").exists()


def test_a_suspect_beyond_its_limits_stays_open(evidence, suspects, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    targets = ["--suspect", suspects / "adversary.onnx", "--answers", "logits", "--memory", 0.1]
    assert medmark(monkeypatch, "audit", evidence, *targets, "--out", out) == 3
    shown = capsys.readouterr().out
    assert "inconclusive" in shown and "adversary.onnx" in shown and str(out / "audit.html") in shown
    assert medmark(monkeypatch, "audit", evidence, *targets[:-2], "--out", out) == 0
    assert "owned" in capsys.readouterr().out


def test_other_peoples_files_stay(evidence, suspects, tmp_path, monkeypatch, capsys):
    (tmp_path / "thesis.tex").write_text("x")
    command = ["audit", evidence, "--suspect", suspects / "adversary.onnx", "--out", tmp_path]
    assert medmark(monkeypatch, *command) == 1
    assert "not empty" in capsys.readouterr().err


def test_the_pipeline_says_the_same(evidence, suspects, tmp_path, monkeypatch):
    from kfp import local
    from medmark.pipelines.audit_suspect.pipeline import audit_suspect

    # kfp.local leaves one that indents if two steps of a loop end crosswise
    monkeypatch.setattr("builtins.print", print)
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path), enable_caching=False)
    made = audit_suspect(
        evidence_uri=str(evidence),
        evidence_digest=file_sha256(evidence / "evidence.json"),
        suspects=[str(suspects / name) for name in ("adversary.onnx", "benign.onnx")],
        contract={"answers": "logits"},
    )
    with open(os.path.join(made.outputs["audit"].path, "audit.json"), "rb") as stream:
        found = json.load(stream)["suspects"]
    assert [one["verdict"] for one in found] == ["owned", "not_owned"]
    assert [one["asked"] for one in found] == [0, 0]  # each was asked in a step of its own
    with open(made.outputs["report"].path, encoding="utf-8") as stream:
        assert "every proof holds" in stream.read()


def test_a_step_questions_a_model_that_was_imported(evidence, suspects, tmp_path):
    """One that another step made, or KFP imported, without any metadata: a file, or a folder with one."""
    from kfp import dsl, local
    from medmark.components.verification.component import audit_component

    @dsl.pipeline(name="imported")
    def imported(evidence_uri: str, model_uri: str, suspects: list) -> dict:
        brought = {
            name: dsl.importer(artifact_uri=uri, artifact_class=kind).output
            for name, uri, kind in (("evidence", evidence_uri, dsl.Artifact), ("model", model_uri, dsl.Model))
        }
        audit = audit_component(
            **brought, suspects=suspects, contract={"answers": "logits"}, connection={}, commitment={}
        )
        return audit.outputs["Output"]

    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path), enable_caching=False)
    folder = tmp_path / "adversary"
    folder.mkdir()
    shutil.copyfile(suspects / "adversary.onnx", folder / "mine.onnx")
    shutil.copyfile(suspects / "adversary.onnx.data", folder / "adversary.onnx.data")
    benign = str(suspects / "benign.onnx")
    made = imported(evidence_uri=str(evidence), model_uri=str(folder), suspects=[benign])
    assert made.output == {benign: "not_owned", "model.onnx": "owned"}
    with pytest.raises(MedmarkError, match="2 ONNX files in the model"):
        suspects_of_step(None, [], suspects)


def test_the_exported_suspects_are_the_made_up_ones(suspects):
    import onnxruntime
    from scipy.special import softmax

    images = torch.rand(4, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(str(suspects / "adversary.onnx"))
    logits = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
    np.testing.assert_allclose(softmax(logits, axis=1), Model("adversary", ADVERSARY)(images), atol=1e-5)
