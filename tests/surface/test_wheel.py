"""What users install: a wheel, in an environment that cannot see the source tree."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = {
    "size": 64, "epochs": 1, "other_architecture": "resnet_tiny", "other_epochs": 1, "surrogates": 1, "benign_models": 2,
    "queries": 20, "phantoms": 120,
}  # fmt: skip


def run(*command, cwd: Path) -> subprocess.CompletedProcess:
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MEDMARK_IMAGE")}
    return subprocess.run([str(part) for part in command], cwd=cwd, env=own, capture_output=True, text=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Made as a release of medmark is, through the source archive."""
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("components", "pipelines"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    # --no-isolation: a test needs no network
    built = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, source, cwd=source)
    assert built.returncode == 0, built.stdout + built.stderr
    return next(dist.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The programs of a new environment with the wheel. It borrows the other packages of this one, but not what their .pth
    files add: those would bring the source tree back."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet", "--no-index")
    done = run(*pip, "--no-deps", wheel, cwd=folder)
    assert done.returncode == 0, done.stderr
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text("\n".join(borrowed))
    return folder / "bin"


def test_the_wheel_has_every_package_and_its_data(wheel):
    """setup.cfg lists packages and data by hand."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {name.removeprefix("medmark/") for name in archive.namelist() if name.startswith("medmark/")}
    files = [path for name in ("components", "pipelines") for path in (ROOT / name).rglob("*") if path.is_file()]
    wanted = {str(path.relative_to(ROOT)) for path in files if path.suffix not in (".md", ".pyc")}
    assert packed == wanted, "name what is missing in setup.cfg: [options] packages or [options.package_data]"


def test_the_source_tree_is_out_of_sight(installed, tmp_path):
    where = run(installed / "python", "-c", "import medmark.pipelines as p; print(p.__file__)", cwd=tmp_path)
    assert where.stdout.startswith(str(installed.parent)), where.stdout + where.stderr


def test_help_and_compile(installed, tmp_path):
    shown = run(installed / "medmark", "--help", cwd=tmp_path)
    assert shown.returncode == 0 and "mark-release" in run(installed / "medmark", "run", "--help", cwd=tmp_path).stdout
    compiled = run(installed / "medmark", "compile", "--out", "ir", cwd=tmp_path)
    assert compiled.returncode == 0, compiled.stderr
    golden = {path.name for path in (ROOT / "tests" / "pipelines" / "golden").glob("*.yaml")}
    assert {path.name for path in (tmp_path / "ir").iterdir()} == golden


def test_mark_release_from_another_folder(installed, tmp_path):
    settings = [f"--set={name}={value}" for name, value in TINY.items()]
    command = (installed / "medmark", "run", "mark-release", "--profile", "smoke", "--seed", "15", "--out", "out")
    done = run(*command, *settings, cwd=tmp_path)
    assert done.returncode == 3, done.stderr  # so little training proves nothing
    assert {"release", "evidence", "report.html", "verdict.json"} <= set(os.listdir(tmp_path / "out"))
