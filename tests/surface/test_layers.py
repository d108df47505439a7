"""The contracts in pyproject.toml hold, and import-linter finds an import that breaks one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
FORBIDDEN = {
    "Rooms import the rooms below them only": ("base/errors.py", "medmark.components.report.figures"),
    "Pipelines import components, never the other way round": ("report/figures.py", "medmark.pipelines.compile"),
    "Only component.py and pipelines know KFP": ("dataset/ingest.py", "kfp"),
    "Only pipelines import component.py": ("report/figures.py", "medmark.components.saliency.component"),
    "Files import each other in one direction": ("dataset/release.py", "medmark.components.dataset.ingest"),
}


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> Path:
    """medmark in another folder, with its contracts."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name in ("components", "pipelines"):
        shutil.copytree(ROOT / name, folder / "medmark" / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def broken(folder: Path) -> set[str]:
    """Names of the contracts that import-linter finds broken."""
    own = os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "200"}
    done = subprocess.run(COMMAND, cwd=folder, env=own, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    found = {name for name in FORBIDDEN if any(line.startswith(f"{name} BROKEN") for line in lines)}
    assert f"Contracts: {len(FORBIDDEN) - len(found)} kept, {len(found)} broken." in lines, done.stdout + done.stderr
    assert done.returncode == bool(found)
    return found


def test_all_contracts_hold(copied):
    assert broken(copied) == set(), "run 'make lint'"


@pytest.mark.parametrize("contract", FORBIDDEN)
def test_a_planted_import_is_found(copied, contract):
    name, module = FORBIDDEN[contract]
    file = copied / "medmark" / "components" / name
    code = file.read_text()
    file.write_text(f"{code}\nimport {module}\n")
    try:
        assert contract in broken(copied)
    finally:
        file.write_text(code)
