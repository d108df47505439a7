"""Shared fixtures. Small releases and models are made once a session."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")  # before torch: kernels of other thread counts give other sums

import numpy as np
import pytest
import torch
from medmark.components.dataset.ingest import ingest
from medmark.components.dataset.phantoms import make_phantoms
from medmark.components.saliency.extract import extract
from medmark.components.surrogate.models import train_models
from medmark.components.surrogate.training import TrainConfig
from medmark.pipelines import cli
from wheel import build_wheel, install_wheel


@pytest.fixture(scope="session")
def medmark_data() -> Path:
    """Real images; tests that need them are skipped without."""
    path = Path(os.environ.get("MEDMARK_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not (path / "cxr" / "dev" / "manifest.csv").is_file():
        pytest.skip(f"no real images at {path}: set MEDMARK_DATA to run this test")
    return path


@pytest.fixture
def medmark(monkeypatch, capsys):
    """Runs the command in this process; gives its exit code, output and error output."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["medmark", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return end.value.code or 0, printed.out, printed.err

    return run


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """medmark as users get it."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory) -> Path:
    """The folder with the ``medmark`` command of an environment that has the wheel and cannot see the source tree."""
    return install_wheel(wheel, tmp_path_factory.mktemp("environment"))


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """A file with a pinned image, as ``--images`` takes it."""
    file = tmp_path_factory.mktemp("images") / "digests.yaml"
    file.write_text(f"medmark/python-cpu: registry.example/medmark@sha256:{64 * 'a'}\n")
    return file


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> Path:
    """A folder per class with 120 phantoms of 64 px."""
    return make_phantoms(tmp_path_factory.mktemp("source") / "phantoms", count=120, size=64, seed=1)


@pytest.fixture(scope="session")
def release(source, tmp_path_factory) -> Path:
    """The phantoms as a release."""
    path = tmp_path_factory.mktemp("release") / "release"
    ingest(source, path, name="phantoms", seed=1, patient_key="phantoms")
    return path


@pytest.fixture(scope="session")
def surrogates(release, tmp_path_factory) -> Path:
    """Two classifiers, trained for two epochs."""
    path = tmp_path_factory.mktemp("surrogates")
    configs = [TrainConfig(name=f"surrogate-{i}", size=64, epochs=2, seed=i) for i in range(2)]
    train_models(release, path, configs=configs)
    return path


@pytest.fixture(scope="session")
def saliency(release, surrogates, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("saliency")
    extract(release, surrogates / "surrogate-0.safetensors", path)
    return path


@pytest.fixture
def rng() -> np.random.Generator:
    torch.manual_seed(0)
    return np.random.default_rng(0)
