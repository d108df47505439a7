"""A mark is checked with models that medmark did not train, through the component that pipelines use."""

import json

import numpy as np
import onnx
import pandas as pd
import pytest
from kfp import dsl
from made_up_evidence import SIDE, STRIPES, write_evidence
from medmark.components.base.errors import MedmarkError
from medmark.components.evidence.evidence import read_evidence
from medmark.components.suspects.contract import Contract
from medmark.components.verification import scenarios
from medmark.components.verification.audit import audit
from medmark.components.verification.component import check_models_component


def write_model(path, reaction):
    """What :class:`made_up_evidence.Model` does, as an ONNX file that answers with the logit of the second class."""
    path.parent.mkdir(exist_ok=True)
    weights = np.stack([STRIPES.ravel(), np.roll(STRIPES, 1, axis=(0, 1)).ravel()], axis=1) / (0.1 * SIDE**2)
    tensors = [
        onnx.numpy_helper.from_array(np.asarray(value, np.float32), name)
        for name, value in {"half": 0.5, "w": reaction * weights, "eight": -8.0, "three": 3.0}.items()
    ]
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 20]> agraph (float[N,1,{SIDE},{SIDE}] x) => (float[N] y) {{
        s = Sub(x, half)  f = Flatten(s)  m = MatMul(f, w)  one = Constant<value = int64[1] {{1}}>()
        l = ReduceL2<keepdims = 0>(m, one)  a = ReduceMean<keepdims = 0>(f, one)  b = Mul(a, eight)
        c = Add(b, three)  y = Sub(c, l) }}"""
    )
    model.graph.initializer.extend(tensors)
    onnx.save(model, str(path))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for number in range(20):
        write_model(folder / "benign" / f"benign-{number:02d}.onnx", 0.02 * number)
    write_model(folder / "marked" / "mine.onnx", 7.0)
    return folder


def checked(folder, evidence, models, marked="marked"):
    def artifact(path):
        return dsl.Artifact(uri=str(path), metadata={})

    return check_models_component.python_func(
        evidence=artifact(evidence),
        benign_models=artifact(models / "benign"),
        marked_models=artifact(models / marked),
        contract={"answers": "logits"},
        thresholds={},
        check=artifact(folder / "check"),
        complete=artifact(folder / "complete"),
    )


def test_the_mark_is_found_in_your_model_and_the_evidence_is_complete(models, tmp_path, monkeypatch):
    monkeypatch.setattr(scenarios, "ASKED_FOR_KEY", 2)  # a fifth of the time
    bare = write_evidence(tmp_path / "made").parent / "bare"
    assert checked(tmp_path, bare, models) == "owned"
    verdict = json.loads((tmp_path / "check" / "verdict.json").read_bytes())
    assert [each["name"] for each in verdict["victims"]] == ["mine"] and verdict["independent_models"]["accused"] == 0
    assert verdict["release_digest"] == read_evidence(tmp_path / "complete")["release_digest"]
    assert len(pd.read_parquet(tmp_path / "complete" / "innocents.parquet").model.unique()) == 20
    suspects, contract = [str(models / "marked" / "mine.onnx")], Contract(answers="logits")
    (found,) = audit(tmp_path / "complete", suspects, tmp_path / "audit", contract=contract)["suspects"]
    assert found["verdict"] == "owned"


def test_a_folder_without_models_is_refused(models, tmp_path):
    bare = write_evidence(tmp_path / "made").parent / "bare"
    (tmp_path / "none").mkdir()
    with pytest.raises(MedmarkError, match="no ONNX file in .*none"):
        checked(tmp_path, bare, models, marked=tmp_path / "none")
