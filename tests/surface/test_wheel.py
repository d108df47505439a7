"""What users install has all that it needs; tests/e2e/ marks its release with it."""

import os
import subprocess
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*command, cwd: Path) -> subprocess.CompletedProcess:
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MEDMARK_IMAGES")}
    return subprocess.run([str(part) for part in command], cwd=cwd, env=own, capture_output=True, text=True)


def test_the_wheel_has_every_package_and_its_data(wheel):
    """setup.cfg lists packages and data by hand."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {name.removeprefix("medmark/") for name in archive.namelist() if name.startswith("medmark/")}
    files = [path for name in ("components", "pipelines") for path in (ROOT / name).rglob("*") if path.is_file()]
    wanted = {str(path.relative_to(ROOT)) for path in files if path.suffix not in (".md", ".pyc")} | {
        "images/digests.yaml"
    }
    assert packed == wanted, "name what is missing in setup.cfg: [options] packages or [options.package_data]"


def test_the_source_tree_is_out_of_sight(installed, tmp_path):
    where = run(installed / "python", "-c", "import medmark.pipelines as p; print(p.__file__)", cwd=tmp_path)
    assert where.stdout.startswith(str(installed.parent)), where.stdout + where.stderr


def test_help_and_compile(installed, tmp_path):
    shown = run(installed / "medmark", "--help", cwd=tmp_path)
    assert shown.returncode == 0 and "mark-release" in run(installed / "medmark", "run", "--help", cwd=tmp_path).stdout
    compiled = run(installed / "medmark", "compile", "--out", "ir", "--unpinned", cwd=tmp_path)
    assert compiled.returncode == 0, compiled.stderr
    golden = {path.name for path in (ROOT / "tests" / "pipelines" / "golden").glob("*.yaml")}
    assert {path.name for path in (tmp_path / "ir").glob("*.yaml")} == golden
