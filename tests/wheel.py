"""What users install: a wheel, in an environment that cannot see the source tree."""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]


def build_wheel(folder: Path) -> Path:
    """Builds the wheel as for a release of medmark, through the source archive.

    Args:
        folder: gets ``source/`` and ``dist/``.
    """
    source, dist = folder / "source", folder / "dist"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("components", "images", "pipelines"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    # without isolation, because a test needs no network
    check(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, source)
    return next(dist.glob("*.whl"))


def install_wheel(wheel: Path, folder: Path) -> Path:
    """Makes an environment with the wheel.

    It borrows the other packages of the environment that runs this, but not what their .pth files add: those would bring the
    source tree back.

    Returns:
        The folder with its programs.
    """
    venv.create(folder, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet", "--no-index"]
    check(*pip, "--no-deps", wheel)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    return folder / "bin"


def check(*command) -> None:
    """Runs a command that must succeed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
