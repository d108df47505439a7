"""Copies of folders that cost no disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def copy_linked(folder: str | Path, out: str | Path) -> None:
    """Makes a private folder of hard links to the files of another one, or of copies where the file system has no links.

    Add files to the copy and remove files from it, but change none in place: the original would change too.

    Args:
        folder: what is copied; symbolic links in it are followed.
        out: folder that must be absent.
    """
    for above, _, files in os.walk(folder, followlinks=True):
        target = Path(out) / Path(above).relative_to(folder)
        target.mkdir(mode=0o700, parents=True)
        for name in files:
            file = os.path.realpath(Path(above) / name)  # a link to a symbolic link would lead elsewhere
            try:
                os.link(file, target / name)
            except OSError:  # another file system, or one without links
                shutil.copyfile(file, target / name)
