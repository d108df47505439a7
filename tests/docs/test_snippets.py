"""Python code in Markdown files: what it imports exists, and README's pipeline compiles."""

import ast
import re
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import yaml
from medmark.pipelines.compile import compile_pipeline, read_images

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("components/*/README.md"))]


def snippets(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if snippets(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_imports_exist(page):
    for code in snippets(page):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom):
                module = import_module(node.module)
                assert [name.name for name in node.names if not hasattr(module, name.name)] == [], node.module


def test_pipeline_in_readme_compiles(tmp_path):
    (code,) = snippets(ROOT / "README.md")
    (tmp_path / "mine.py").write_text(code)  # KFP reads the source of a component from its file
    spec = spec_from_file_location("mine", tmp_path / "mine.py")
    mine = module_from_spec(spec)
    spec.loader.exec_module(mine)
    compile_pipeline(mine.mark_and_hand_out, tmp_path / "mine.yaml", read_images(unpinned=True))
    pipeline, _ = yaml.safe_load_all((tmp_path / "mine.yaml").read_text())  # and what Kubernetes gives the steps
    steps = pipeline["root"]["dag"]["tasks"]
    assert set(steps) == {"mark-release", "hand-out"}
    assert steps["hand-out"]["dependentTasks"] == ["mark-release"]
