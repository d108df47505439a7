"""A real SeaweedFS for the tests of the object store."""

import pytest
from medmark.components.storage import retry
from medmark.pipelines.services import down, up
from object_store import processes_of


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    """SeaweedFS with its buckets. Nothing of it may be left when the module's tests are over."""
    folder = tmp_path_factory.mktemp("services")
    try:
        yield up(folder, mlflow_port=None)
    finally:
        down(folder)
        assert processes_of(folder) == []


@pytest.fixture
def quick(monkeypatch):
    """Tries that follow each other at once."""
    monkeypatch.setattr(retry, "BACKOFF", 0.02)
