from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys

import pytest
from medmark.components.base.atomic import atomic_file, write_atomic

WRITER = """
import os, signal, sys
from medmark.components.base.atomic import atomic_file
with atomic_file(sys.argv[1]) as stream:
    stream.write(b"new, but only in p")
    stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_the_old_content(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    killed = subprocess.run([sys.executable, "-c", WRITER, str(path)])
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    write_atomic(path, b"new")  # what the killed writer left is in nobody's way
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_an_error_leaves_the_old_content_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(ValueError), atomic_file(path) as stream:
        stream.write(b"new")
        raise ValueError
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_private_files_are_private_from_the_start(tmp_path):
    path = tmp_path / "file"
    with atomic_file(path, private=True) as stream:
        assert stat.S_IMODE(os.fstat(stream.fileno()).st_mode) == 0o600
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_that_somebody_put_there_is_not_followed(tmp_path):
    other = tmp_path / "other"
    other.write_bytes(b"of somebody else")
    (tmp_path / "file.partial").symlink_to(other)
    write_atomic(tmp_path / "file", b"new")
    assert other.read_bytes() == b"of somebody else"
    assert not (tmp_path / "file").is_symlink()
