"""README's pipeline code, compiled as a reader would compile it."""

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import yaml
from kfp import compiler

README = Path(__file__).resolve().parents[2] / "README.md"


def test_pipeline_code_compiles(tmp_path):
    (code,) = re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.M | re.S)
    (tmp_path / "mine.py").write_text(code)  # KFP reads the source of a component from its file
    spec = spec_from_file_location("mine", tmp_path / "mine.py")
    mine = module_from_spec(spec)
    spec.loader.exec_module(mine)
    compiler.Compiler().compile(mine.mark_and_hand_out, str(tmp_path / "mine.yaml"))
    pipeline, _ = yaml.safe_load_all((tmp_path / "mine.yaml").read_text())  # and what Kubernetes gives the steps
    steps = pipeline["root"]["dag"]["tasks"]
    assert set(steps) == {"mark-release", "hand-out"}
    assert steps["hand-out"]["dependentTasks"] == ["mark-release"]
