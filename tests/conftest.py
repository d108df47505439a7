"""Shared fixtures, and how the tests share the machine. Small releases and models are made once a session."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: kernels of other thread counts give other sums
if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has its cores, so that no test slows down those of another
    cores = sorted(os.sched_getaffinity(0))
    first, step = int(os.environ["PYTEST_XDIST_WORKER"][2:]), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.sched_setaffinity(0, cores[first % len(cores) :: step])

import numpy as np
import pytest
import torch
from medmark.components.base.threads import available_cores
from medmark.components.dataset.ingest import ingest
from medmark.components.dataset.phantoms import make_phantoms
from medmark.components.dataset.prepared import prepare
from medmark.components.saliency.extract import extract
from medmark.components.surrogate.models import train_models
from medmark.components.surrogate.training import TrainConfig
from medmark.pipelines import cli
from once import once
from wheel import build_wheel, install_wheel

# those over a minute by how long they take; begun last, one of them would run on alone
LONGEST_FIRST = (
    "test_cluster", "test_marking", "test_docs", "test_update_release", "test_segmenter", "test_lock_release", "test_components",
    "test_mark_release", "test_hostile_suspects", "test_forgery", "test_update", "test_mlflow_sync", "test_suspects",
    "test_submit", "test_traces", "test_places", "test_reconcile", "test_report", "test_registry",
)  # fmt: skip
WORKER_BYTES = 3 << 30  # of a worker with the processes that it starts; a rough estimate, not measured


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """A worker a core, if the memory allows."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(available_cores(), memory // WORKER_BYTES))


def pytest_collection_modifyitems(items) -> None:
    """Puts the files that take longest first."""
    rank = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


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
    _, file = once(tmp_path_factory, "wheel", lambda folder: str(build_wheel(folder)))
    return Path(file)


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory) -> Path:
    """The folder with the ``medmark`` command of an environment that has the wheel and cannot see the source tree."""
    _, programs = once(tmp_path_factory, "environment", lambda folder: str(install_wheel(wheel, folder)))
    return Path(programs)


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
def prepared(release, tmp_path_factory) -> Path:
    """Its images, prepared for models of 64 px."""
    return prepare(release, tmp_path_factory.mktemp("prepared") / "prepared", size=64).path


@pytest.fixture(scope="session")
def surrogates(release, tmp_path_factory) -> Path:
    """Two classifiers, trained for two epochs."""
    configs = [TrainConfig(name=f"surrogate-{i}", size=64, epochs=2, seed=i) for i in range(2)]
    return once(tmp_path_factory, "surrogates", lambda folder: train_models(release, folder, configs=configs))[0]


@pytest.fixture(scope="session")
def saliency(release, surrogates, tmp_path_factory) -> Path:
    model = surrogates / "surrogate-0.safetensors"
    return once(tmp_path_factory, "saliency", lambda folder: extract(release, model, folder))[0]


@pytest.fixture
def rng() -> np.random.Generator:
    torch.manual_seed(0)
    return np.random.default_rng(0)
