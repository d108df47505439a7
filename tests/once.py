"""Makes what several files of tests use once a session, in however many processes pytest-xdist runs them."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock


def once(tmp_path_factory, name: str, make: Callable[[Path], Any]) -> tuple[Path, Any]:
    """Makes a folder, or takes the one that another process of the session made. It is only read.

    Args:
        name: of the folder.
        make: is given the empty folder, and returns what JSON can hold.

    Returns:
        The folder, and what ``make`` returned.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        folder = tmp_path_factory.mktemp(name)
        return folder, make(folder)
    made = tmp_path_factory.getbasetemp().parent / f"{name}.json"  # the processes have their own folders beside it
    with FileLock(made.with_suffix(".lock")):
        if not made.exists():  # nor after a failure, which the other processes shall see too
            folder = tmp_path_factory.mktemp(name)
            made.write_text(json.dumps([str(folder), make(folder)]))
    folder, returned = json.loads(made.read_text())
    return Path(folder), returned
