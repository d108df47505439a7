"""``medmark run mark-segmenter`` as it comes, then a commitment and ``medmark audit-segmenter`` on suspects in ONNX files."""

import json
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from kfp import dsl
from medmark.components.base.digests import canonical_json
from medmark.components.dataset.release import Release
from medmark.components.evidence.marked_model import read_marked_model
from medmark.components.lineage.events import read_steps
from medmark.components.segmentation.networks import Probabilities, build_segmenter
from medmark.components.tracking.registry import onnx_graph

TEXT = "St. Anna 2026"
PASSPHRASE = "correct horse battery"


@pytest.fixture(scope="module")
def run(warm_installed, tmp_path_factory):
    """The smoke run on phantoms: its folder, exit code and what the terminal shows."""
    out = tmp_path_factory.mktemp("segmenter") / "out"
    done = warm_installed("run", "mark-segmenter", "--text", TEXT, "--profile", "smoke", "--out", out)
    return out, done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def suspects(run, tmp_path_factory):
    """The marked model, one that knows nothing, and one that hands out masks only; as ONNX files."""
    folder = tmp_path_factory.mktemp("suspects")
    (folder / "marked.onnx").write_bytes((run[0] / "model" / "model.onnx").read_bytes())
    other = Probabilities(build_segmenter("unet", channels=1, size=64, seed=1))
    torch.manual_seed(0)
    (folder / "other.onnx").write_bytes(onnx_graph(other, (1, 64, 64), "x", "p").SerializeToString())

    class Masks(torch.nn.Module):
        def forward(self, x):
            return (other(x) >= 0.5).float()

    (folder / "masks.onnx").write_bytes(onnx_graph(Masks(), (1, 64, 64), "x", "mask").SerializeToString())
    return folder


def test_the_smoke_run_proves_the_mark(run):
    out, code, shown = run
    verdict = json.loads((out / "verdict.json").read_bytes())
    assert (code, verdict["verdict"]) == (0, "owned"), shown + str(verdict.get("reasons"))
    assert verdict["payload"]["text"] == TEXT and TEXT not in (out / "model" / "model.json").read_text()
    assert verdict["payload"]["wrong_share"] < 0.05
    assert verdict["detector"]["recognised"] > 0.95
    assert abs(verdict["harm"]["metrics"]["dice"]["change"]) < 0.01 and verdict["harm"]["equal_pixels"] >= 0.995
    for said in ("verdict", "owned", "same masks", "report:"):
        assert said in shown
    assert sorted(os.listdir(out)) == sorted(
        ["evidence", "mlartifacts", "mlflow.db", "model", "record.json", "release", "report.html", "verdict.json"]
    )


def test_model_and_release_are_public_and_the_rest_is_private(run):
    out = run[0]
    Release(out / "release").verify()
    model = read_marked_model(out / "model")
    evidence = json.loads((out / "evidence" / "evidence.json").read_bytes())
    assert evidence["model_digest"] == model.digest and evidence["thresholds"]["alpha"] == 1e-6
    assert {event["job"]["name"] for event in read_steps(out / "evidence")["events"]} >= {
        "draw secrets", "ingest", "train segmenters", "mark segmenter", "check segmenter",
    }  # fmt: skip
    public = [
        out / "model",
        out / "record.json",
        out / "release",
        *(out / "model").rglob("*"),
        *(out / "release").rglob("*"),
    ]
    for path in [out, *out.rglob("*")]:
        folder, file = (0o755, 0o644) if path in public else (0o700, 0o600)
        assert stat.S_IMODE(path.lstat().st_mode) == (folder if path.is_dir() else file), path
    key = evidence["mark_key"].encode()
    elsewhere = [path for path in out.rglob("*") if path.is_file() and out / "evidence" not in path.parents]
    assert not [path for path in elsewhere if key in path.read_bytes()]


def test_mlflow_has_the_run_and_the_model(run):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run[0] / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("medmark").experiment_id])
    (parent,) = [one for one in found if "mlflow.parentRunId" not in one.data.tags]
    assert parent.info.run_name == "mark-segmenter" and parent.data.metrics["works"] == 1.0
    assert parent.data.params["verdict"] == "owned"
    assert not {"trigger", "text"} & set(parent.data.params)
    assert {one.info.run_name for one in found} >= {"marked", "unmarked-twin"}
    (registered,) = client.search_model_versions("name = 'segmenter-segmenter'")
    assert registered.tags["medmark.release_digest"] == Release(run[0] / "release").digest


def test_suspects_are_told_apart(run, suspects, tmp_path, medmark, monkeypatch):
    monkeypatch.setenv("MEDMARK_KEY_PASSPHRASE", PASSPHRASE)
    assert medmark("keys", "new", "--out", tmp_path / "keys")[0] == 0
    evidence = tmp_path / "evidence"
    subprocess.run(["cp", "-r", str(run[0] / "evidence"), str(evidence)], check=True)
    commitment = tmp_path / "commitment.json"
    made = medmark(
        "commit", run[0] / "model", evidence, "--key", tmp_path / "keys" / "medmark.key", "--out", commitment
    )
    assert made[0] == 0, made
    signed = ["--commitment", commitment, "--public-key", tmp_path / "keys" / "medmark.pub"]
    names = [suspects / "marked.onnx", suspects / "other.onnx"]
    given = [part for name in names for part in ("--suspect", name)]
    code, out, err = medmark("audit-segmenter", evidence, *given, *signed, "--out", tmp_path / "audit")
    assert code == 0, err
    audit = json.loads((tmp_path / "audit" / "audit-segmenter.json").read_bytes())
    marked, other = audit["suspects"]
    assert (marked["verdict"], marked["reading"]["text"]) == ("owned", TEXT)
    assert (other["verdict"], other["reading"]["text"]) == ("not_owned", None)
    assert marked["p_value_holm"] == pytest.approx(2 * marked["reading"]["p_value"])
    assert audit["commitment"]["evidence_checked"] and audit["draw"]["drawn"] == "self"
    assert any("masks" in caution for caution in audit["cautions"])
    assert re.search(r"owned.*St\. Anna 2026", out) and "report:" in out
    page = (tmp_path / "audit" / "audit-segmenter.html").read_text()
    assert "Shows the secret payload" in page and 'src="http' not in page
    # a changed evidence file, and the evidence of another model
    (evidence / "benign.json").write_text("{}")
    code, _, err = medmark("audit-segmenter", evidence, *given, *signed, "--out", tmp_path / "changed")
    assert code == 1 and "evidence changed or missing" in err


def test_the_lineage_of_a_model_is_signed_and_checked(run, tmp_path, medmark, monkeypatch):
    monkeypatch.setenv("MEDMARK_KEY_PASSPHRASE", PASSPHRASE)
    key, public = (tmp_path / "keys" / f"medmark.{kind}" for kind in ("key", "pub"))
    assert medmark("keys", "new", "--out", tmp_path / "keys")[0] == 0
    digest, release = read_marked_model(run[0] / "model").digest, Release(run[0] / "release")
    model, evidence, commitment = tmp_path / digest, tmp_path / "evidence", tmp_path / "commitment.json"
    shutil.copytree(run[0] / "model", model)
    shutil.copytree(run[0] / "evidence", evidence)
    assert medmark("commit", model, evidence, "--key", key, "--out", commitment)[0] == 0
    record = json.loads((run[0] / "record.json").read_bytes())
    assert (record["release_digest"], record["parent_digest"], record["verdict"]) == (digest, release.digest, "owned")
    assert not {TEXT, json.loads((evidence / "evidence.json").read_bytes())["mark_key"]} & set(
        json.dumps(record).split('"')
    )
    signing = ["lineage", "sign", model, "--key", key, "--commitment", commitment, "--record"]
    foreign = tmp_path / "foreign.json"
    foreign.write_bytes(canonical_json(record | {"release_digest": "0" * 64}))
    code, _, err = medmark(*signing, foreign)
    assert code == 1 and "record of another release" in err
    assert medmark(*signing, run[0] / "record.json")[0] == 0
    verify = ["lineage", "verify", model, "--public-key", public]
    code, out, err = medmark(*verify, "--clean", run[0] / "release", "--json", tmp_path / "checks.json")
    assert code == 0 and "The model holds" in out, err
    checks = json.loads((tmp_path / "checks.json").read_bytes())
    found = {check["path"].rpartition("/")[2]: check["status"] for check in checks["objects"]}
    names = ("model.json", "weights.safetensors", "model.onnx", "lineage.json", "commitment.json", "release.json")
    assert found == dict.fromkeys(names, "holds")
    (summary,) = checks["releases"]
    assert (summary["images"], summary["architecture"], summary["parent"]) == (None, "unet", release.digest)
    assert medmark("lineage", "show", model, "--html", tmp_path / "lineage.html")[0] == 0
    page = (tmp_path / "lineage.html").read_text()
    assert "Lineage of a model" in page and "segmenter 1, unet" in page and "mark segmenter" in page
    # another model in its place, weights of another, no commitment, another signer
    assert medmark("keys", "new", "--out", tmp_path / "stranger")[0] == 0
    code, _, err = medmark(*verify[:3], "--public-key", tmp_path / "stranger" / "medmark.pub")
    assert code == 1 and "of another signer" in err
    for name, change, said in (
        ("commitment.json", Path.unlink, "missing"),
        ("weights.safetensors", lambda path: path.write_bytes(b"x"), "model changed or missing"),
        (
            "model.json",
            lambda path: path.write_text(path.read_text().replace("unet", "unex")),
            "changed or of another model",
        ),
    ):
        copy = tmp_path / "changed" / name / digest
        shutil.copytree(model, copy)
        change(copy / name)
        code, _, err = medmark("lineage", "verify", copy, "--public-key", public)
        assert code == 1 and said in err, err


def test_what_was_answered_is_not_asked_again(run, suspects, tmp_path, medmark):
    audit, given = tmp_path / "audit", ["--suspect", suspects / "marked.onnx"]
    gone = ["--suspect", "http://127.0.0.1:9/v2/models/gone", "--size", 64, "--retries", 0]
    command = ["audit-segmenter", run[0] / "evidence", "--out", audit]
    assert medmark(*command, *given, *gone)[0] == 3
    first, _ = json.loads((audit / "audit-segmenter.json").read_bytes())["suspects"]
    assert first["asked"] > 0 and stat.S_IMODE((audit / "answers.sqlite").stat().st_mode) == 0o600
    assert medmark(*command, *given, "--size", 64)[0] == 0
    (again,) = json.loads((audit / "audit-segmenter.json").read_bytes())["suspects"]
    assert again["asked"] == 0 and again["reading"] == first["reading"]
    code, _, err = medmark(*command, *given)
    assert code == 1 and "finished audit" in err


def test_masks_are_not_enough(run, suspects, tmp_path, medmark):
    code, _, err = medmark(
        "audit-segmenter", run[0] / "evidence", "--suspect", suspects / "masks.onnx", "--out", tmp_path / "audit"
    )
    assert code == 1 and "masks, not maps" in err
    given = ("--suspect", suspects / "other.onnx", "--answers", "labels")
    code, _, err = medmark("audit-segmenter", run[0] / "evidence", *given, "--out", tmp_path / "labels")
    assert code == 1 and "cannot be read from masks alone" in err


def test_evidence_and_audits_are_not_mixed_up(run, suspects, tmp_path, medmark):
    suspect = ("--suspect", suspects / "other.onnx")
    code, _, err = medmark("audit", run[0] / "evidence", *suspect, "--out", tmp_path / "audit")
    assert code == 1 and "evidence of a marked segmenter" in err
    code, _, err = medmark(
        "run", "mark-segmenter", "--text", "x", "--model", tmp_path / "gone", "--out", tmp_path / "x"
    )
    assert code == 1 and "no such file" in err
    code, _, err = medmark("run", "mark-segmenter", "--text", "x" * 17, "--out", tmp_path / "x")
    assert code == 1 and "1 to 16 printable bytes" in err
    code, _, err = medmark("run", "mark-segmenter", "--text", "x", "--set", "architecture=sam", "--out", tmp_path / "x")
    assert code == 1 and "unknown architecture: 'sam'" in err


def test_the_audit_step_answers_as_the_command(run, suspects, tmp_path):
    from medmark.components.segmentation.component import audit_segmenter_component

    audit, report = (
        kind(name=name, uri=str(tmp_path / name), metadata={})
        for name, kind in (("audit", dsl.Artifact), ("report", dsl.HTML))
    )
    verdicts = audit_segmenter_component.python_func(
        evidence=dsl.Artifact(name="evidence", uri=str(run[0] / "evidence"), metadata={}),
        suspects=[str(suspects / "marked.onnx")],
        contract={},
        connection={"timeout": 60.0},
        commitment={},
        audit=audit,
        report=report,
    )
    assert verdicts == {str(suspects / "marked.onnx"): "owned"}
    assert Path(report.path).read_text().lstrip().lower().startswith("<!doctype html")
    assert np.isfinite(json.loads((tmp_path / "audit" / "audit-segmenter.json").read_bytes())["seconds"])
