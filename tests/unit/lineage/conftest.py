"""Fixtures of the commitment's tests."""

import shutil
import threading
from pathlib import Path

import pytest
from commitment_case import Authority, copy_evidence


@pytest.fixture
def evidence(tmp_path) -> Path:
    """Complete evidence of the release; the frozen one, made to name this release."""
    return copy_evidence(tmp_path / "evidence")


@pytest.fixture(scope="session")
def start_authority(tmp_path_factory):
    """Starts authorities; the tests are skipped where there is no openssl."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl command: install it to test time stamps against a real authority")
    started = []

    def start(**options) -> Authority:
        authority = Authority(tmp_path_factory.mktemp("authority") / "tsa", **options)
        threading.Thread(target=authority.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        started.append(authority)
        return authority

    yield start
    for authority in started:
        authority.released.set()
        authority.shutdown()
        authority.server_close()


@pytest.fixture(scope="session")
def the_authority(start_authority):
    return start_authority()


@pytest.fixture
def authority(the_authority):
    """An honest one; a test may spoil it."""
    the_authority.act, the_authority.asked = None, []
    return the_authority
