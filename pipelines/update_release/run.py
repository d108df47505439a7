"""Runs update_release on this machine."""

from __future__ import annotations

import contextlib
import json
import time
from functools import partial
from pathlib import Path

from medmark.components.base.digests import canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.base.private_files import output
from medmark.components.base.threads import use_threads
from medmark.components.dataset.release import Release
from medmark.components.dataset.tombstones import WITHDRAWN
from medmark.components.evidence.evidence import read_evidence
from medmark.components.evidence.keep import read_keep
from medmark.components.report.update_tracking import track_update
from medmark.pipelines.local_run import (
    WORK,
    hand_over,
    log_run,
    private_work,
    refuse_occupied,
    remove_work,
    run_locally,
)
from medmark.pipelines.run_arguments import source_state


def run_update_release(
    previous: str | Path,
    out: str | Path,
    *,
    data: str | Path,
    drop_options: dict | None = None,
    version: str | None = None,
    debug: bool = False,
) -> dict:
    """Makes the next release from a raw drop.

    Args:
        previous: folder of a finished ``mark-release`` or ``update-release``, with ``release/``, ``evidence/`` and ``keep/``.
        out: folder to write, readable by its owner only. It gets the same three, ``record.json`` and ``verdict.json``; meanwhile
            ``work/`` holds what the steps pass on. It stays empty if nothing changed.
        data: the drop: folder per class, CSV file or release, with ``withdrawn.csv`` beside it if images are withdrawn.
        drop_options: keyword arguments of :func:`medmark.components.dataset.drop.read_drop`; those that are None are left out.
        version: version of the new release; the number after the previous one when None.
        debug: show all that the steps print.

    Returns:
        The content of ``verdict.json``; its ``change["changed"]`` is 0 if there is nothing to publish.

    Raises:
        MedmarkError: ``out`` holds something else, a folder is missing, no number comes after the previous version, or a step
            fails.
    """
    from medmark.pipelines.update_release.pipeline import update_release

    previous, data = Path(previous).resolve(), Path(data).resolve()
    started = time.monotonic()
    existed = Path(out).exists() and not (Path(out) / WORK).exists()
    with output(out, refuse_occupied) as folder:
        release, evidence = Release(previous / "release"), read_evidence(previous / "evidence")
        read_keep(previous / "keep")
        if not {"seed", "thresholds"} <= evidence.keys():
            raise MedmarkError(f"incomplete evidence: {previous / 'evidence'}; use what a finished mark-release wrote")
        work = private_work(folder)
        use_threads()
        arguments = _arguments(previous, release, data, drop_options or {}, version)
        made = run_locally(update_release, arguments, work, debug)
        parts = {name: Path(artifact.path) for name, artifact in made.outputs.items()}
        verdict = json.loads((parts["check"] / "verdict.json").read_bytes())
        verdict["seconds"] = {**verdict.get("seconds", {}), "total": round(time.monotonic() - started, 1)}
        if verdict["change"]["changed"]:
            hand_over(parts, folder)
            (folder / "verdict.json").write_bytes(canonical_json(verdict))
            log_run(parts, folder, partial(track_update, folder, parts, verdict))
        remove_work(folder)
    if not verdict["change"]["changed"] and not existed:
        with contextlib.suppress(FileNotFoundError):  # a folder that this call made is gone
            Path(out).rmdir()
    return verdict


def _arguments(previous: Path, release: Release, data: Path, drop_options: dict, version: str | None) -> dict:
    """Returns the arguments of the pipeline; ``release`` is the one in ``previous``."""
    options = {name: value for name, value in drop_options.items() if value is not None}
    return {
        "source": str(data),
        "source_state": _drop_state(data, options.get("root")),
        "drop_options": options,
        **{f"{name}_uri": str(previous / part) for name, part in _FOLDERS.items()},
        "previous_digest": release.digest,
        **{f"{name}_digest": file_sha256(previous / name / f"{name}.json") for name in ("evidence", "keep")},
        "version": version or next_version(release.version),
        "seed": check_seed(release.digest),
    }


def check_seed(previous_digest: str) -> int:
    """Returns the seed of the model that checks the mark. It is no secret, and independent of the mark's seed."""
    return int(previous_digest[:12], 16)


def _drop_state(data: Path, root: str | None) -> str:
    """Returns a text that differs whenever the drop's files differ. ``withdrawn.csv`` may be in another folder than the images."""
    withdrawn = (data if data.is_dir() else data.parent) / WITHDRAWN
    said = file_sha256(withdrawn) if withdrawn.is_file() else ""
    return f"{source_state(data, root)}{said}"


_FOLDERS = {"previous": "release", "evidence": "evidence", "keep": "keep"}


def next_version(version: str) -> str:
    """Returns the version after another one.

    Raises:
        MedmarkError: that one is no number.
    """
    if not version.isdecimal():
        raise MedmarkError(f"no version after {version!r} can be told; name it with --version")
    return str(int(version) + 1)
