"""Every pipeline in ``examples/`` compiles, and runs on this machine."""

import importlib.util
from pathlib import Path

import pytest
import yaml
from kfp import local
from kfp.local.config import LocalExecutionConfig
from medmark.pipelines.compile import compile_pipeline

EXAMPLES = Path(__file__).parents[2] / "examples"


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
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"count_classes"}


def test_count_classes(source, tmp_path, on_this_machine):
    pipeline = load("count_classes").count_classes
    compile_pipeline(pipeline, tmp_path / "count-classes.yaml")
    spec = next(yaml.safe_load_all((tmp_path / "count-classes.yaml").read_text()))
    assert set(spec["root"]["dag"]["tasks"]) == {"ingest-component", "count-images"}
    assert pipeline(source=str(source)).output == {"0": 60, "1": 60}
