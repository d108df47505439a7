"""Every pipeline in ``examples/`` compiles, and runs on this machine."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml
from kfp import compiler, components, dsl, local
from kfp.local.config import LocalExecutionConfig
from made_up_evidence import SIDE, Model, write_evidence
from made_up_run import make_run
from medmark.components.evidence.evidence import read_evidence
from medmark.pipelines.compile import compile_components, compile_pipeline, read_images

EXAMPLES = Path(__file__).parents[2] / "examples"
COMPONENTS = Path(__file__).parents[2] / "docs" / "components.md"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def on_this_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(LocalExecutionConfig, "instance", None)  # restored afterwards: it is the whole process's
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "steps"))


def test_there_is_a_test_for_each_example():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"audit_model", "count_classes", "mark_with_your_model"}


def test_components_are_loaded_from_their_files_and_mixed_with_others(source, tmp_path, on_this_machine):
    """By people who do not install medmark in the environment that compiles."""
    files = compile_components(tmp_path, {"medmark/python-cpu": f"registry.example/medmark@sha256:{64 * 'a'}"})
    assert {f"{name}-component" for name in (path.stem for path in files)} == {
        name.replace("_", "-") for name in re.findall(r"^### (\w+)", COMPONENTS.read_text(), re.M)
    }
    ingest = components.load_component_from_file(tmp_path / "ingest.yaml")
    count = load("count_classes").count_images

    @dsl.pipeline(name="mixed")
    def mixed(source: str) -> dict:
        made = ingest(source=source, source_state="", options={"name": "chest"})
        return count(release=made.outputs["release"]).output

    assert mixed(source=str(source)).output == {"0": 60, "1": 60}
    compiler.Compiler().compile(mixed, str(tmp_path / "mixed.yaml"))
    (executor,) = (
        e["container"]
        for e in yaml.safe_load((tmp_path / "mixed.yaml").read_text())["deploymentSpec"]["executors"].values()
        if "count" not in str(e["container"]["args"])
    )
    assert executor["image"] == f"registry.example/medmark@sha256:{64 * 'a'}"
    assert executor["command"][2].startswith(f"export MEDMARK_IMAGE={executor['image']}\n")


def test_count_classes(source, tmp_path, on_this_machine):
    pipeline = load("count_classes").count_classes
    compile_pipeline(pipeline, tmp_path / "count-classes.yaml", read_images(unpinned=True))
    spec = next(yaml.safe_load_all((tmp_path / "count-classes.yaml").read_text()))
    assert set(spec["root"]["dag"]["tasks"]) == {"ingest-component", "count-images"}
    assert pipeline(source=str(source)).output == {"0": 60, "1": 60}


def test_audit_model(source, tmp_path, on_this_machine):
    pipeline = load("audit_model").audit_model
    compile_pipeline(pipeline, tmp_path / "audit-model.yaml", read_images(unpinned=True))
    spec = next(yaml.safe_load_all((tmp_path / "audit-model.yaml").read_text()))
    assert set(spec["root"]["dag"]["tasks"]) == {"ingest-component", "train-and-export", "importer", "audit-component"}
    benign = [Model(f"benign-{i:02d}", reaction=0.01 * i) for i in range(40)]
    evidence = write_evidence(tmp_path / "evidence", benign_models=benign)
    assert pipeline(source=str(source), evidence_uri=str(evidence), size=SIDE).output == {"model.onnx": "not_owned"}


def test_mark_with_your_model(source, tmp_path, on_this_machine):
    pipeline = load("mark_with_your_model").mark_with_your_model
    compile_pipeline(pipeline, tmp_path / "mark.yaml", read_images(unpinned=True))
    spec = next(yaml.safe_load_all((tmp_path / "mark.yaml").read_text()))
    tasks = {"ingest-component", "train", "explain-model-component", "importer", "importer-2", "poison-component"}
    assert set(spec["root"]["dag"]["tasks"]) == tasks
    before = make_run(tmp_path / "before")
    imported = {"evidence_uri": str(before / "evidence"), "keep_uri": str(before / "keep")}
    digest = pipeline(source=str(source), **imported).output
    (file,) = (path for path in (tmp_path / "steps").rglob("evidence.json"))
    evidence = read_evidence(file.parent)
    assert evidence["release_digest"] == digest and evidence["queries"] > 0
    first = read_evidence(before / "evidence")
    as_large = 120 * first["marked_images"] / first["images"]
    assert abs(evidence["marked_images"] + evidence["left_unmarked"] - as_large) < 1
    assert evidence["seed"] == first["seed"]
