"""Running update_release on this machine."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

from medmark.components.dataset.release import Release, canonical_json
from medmark.components.errors import MedmarkError
from medmark.components.platform.resources import use_threads
from medmark.components.poisoning.keep import read_keep
from medmark.components.poisoning.poison import read_evidence
from medmark.pipelines.local_run import run_locally
from medmark.pipelines.mark_release.run import source_state

CHECK_SEED = 6000  # apart from the seeds of mark_release's models


def run_update_release(
    previous: str | Path,
    out: str | Path,
    *,
    data: str | Path,
    drop_options: dict | None = None,
    version: str | None = None,
    debug: bool = False,
) -> dict:
    """Makes the next release of a raw drop.

    Args:
        previous: folder of a finished ``mark-release`` or ``update-release``, with ``release/``, ``evidence/`` and ``keep/``.
        out: folder for the same three and ``verdict.json``; ``work/`` lies there meanwhile. If nothing changed, nothing is
            left there.
        data: the drop: folder per class, CSV or release, and maybe ``withdrawn.csv`` beside it.
        drop_options: keyword arguments of :func:`medmark.components.dataset.drop.read_drop`.
        version: of the new release; the previous one plus 1, if that is a number, when None.
        debug: show all that the steps print.

    Returns:
        The content of ``verdict.json``; its ``change["changed"]`` is 0 if there is nothing to publish.

    Raises:
        MedmarkError: ``out`` holds something, a folder is missing, no version can be told, or whatever a step refuses.
    """
    from medmark.pipelines.update_release.pipeline import update_release

    previous, out, data = Path(previous).resolve(), Path(out).resolve(), Path(data).resolve()
    if out.exists() and (set(os.listdir(out)) - {"work"}):
        raise MedmarkError(f"not empty: {out}; choose a new folder with --out, or remove what is there")
    release, evidence = Release(previous / "release"), read_evidence(previous / "evidence")
    read_keep(previous / "keep")
    existed, work = out.exists(), out / "work"
    work.mkdir(parents=True, exist_ok=True)
    os.chmod(work, 0o700)  # evidence passes through it
    use_threads()
    started = time.monotonic()
    options = {name: value for name, value in (drop_options or {}).items() if value is not None}
    arguments = {
        "source": str(data),
        "source_state": source_state(data, options.get("root")),
        "drop_options": options,
        **{f"{name}_uri": str(previous / folder) for name, folder in _FOLDERS.items()},
        "previous_digest": release.digest,
        "version": version or _next_version(release.version),
        "seed": (evidence["seed"] + CHECK_SEED) % 2**48,
    }
    made = run_locally(update_release, arguments, work, debug)
    parts = {name: Path(artifact.path) for name, artifact in made.outputs.items()}
    verdict = json.loads((parts["check"] / "verdict.json").read_bytes())
    verdict["seconds"] = {**verdict.get("seconds", {}), "total": round(time.monotonic() - started, 1)}
    if verdict["change"]["changed"]:
        shutil.copytree(parts["release"], out / "release")
        for private in ("evidence", "keep"):
            (out / private).mkdir(mode=0o700)
            shutil.copytree(parts[private], out / private, dirs_exist_ok=True)
        shutil.copyfile(parts["check"] / "record.json", out / "record.json")
        (out / "verdict.json").write_bytes(canonical_json(verdict))
    shutil.rmtree(work)
    if not verdict["change"]["changed"] and not existed:
        out.rmdir()
    return verdict


_FOLDERS = {"previous": "release", "evidence": "evidence", "keep": "keep"}


def _next_version(version: str) -> str:
    if not version.isdecimal():
        raise MedmarkError(f"no version after {version!r} can be told; name it with --version")
    return str(int(version) + 1)
