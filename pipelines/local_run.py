"""Running a pipeline on this machine: every step in a process of its own, finished steps kept, results handed over whole."""

from __future__ import annotations

import contextlib
import os
import shutil
import warnings
from pathlib import Path

from medmark.components.base.errors import MedmarkError
from medmark.components.base.private_files import LOCK, check_own, close_to_others, open_to_others, private_folder
from medmark.pipelines.local_output import StepOutput

WORK = "work"
COPYING = "copying"  # in it once the steps have ended: what lies beside it then is a copy that may be interrupted


def refuse_occupied(out: Path) -> None:
    """Nothing that is not an unfinished run's may be overwritten.

    Raises:
        MedmarkError: the folder holds something else, or somebody else may have written to the unfinished run.
    """
    if set(os.listdir(out)) - {WORK, LOCK} and not (out / WORK / COPYING).exists():
        raise MedmarkError(f"not empty: {out}; choose a new folder with --out, or remove what is there")
    if os.path.lexists(out / WORK):
        check_own(out / WORK, f"check who else could write there, then remove {out / WORK} and start the run again")


def private_work(out: Path) -> Path:
    """Folder for what the steps of a run pass on, generators and evidence too."""
    return private_folder(out / WORK)


def hand_over(parts: dict[str, Path], out: Path) -> None:
    """Copies release, evidence, keep and record of a run from its steps to where users look.

    A run that is killed meanwhile does it again. ``work/`` is removed by the caller, last. Release and record are then readable
    by everybody who may enter the folder, all else by its owner only.
    """
    (out / WORK / COPYING).touch()
    for folder in ("release", "evidence", "keep"):
        shutil.rmtree(out / folder, ignore_errors=True)
        shutil.copytree(parts[folder], out / folder)
        if folder != "release":
            close_to_others(out / folder)
    shutil.copyfile(parts["record"], out / "record.json")
    for public in ("release", "record.json"):
        open_to_others(out / public)


def remove_work(out: Path) -> None:
    """Ends a run; ``work/`` still says that it was handed over while its steps are removed."""
    shutil.rmtree(out / WORK / "steps")
    shutil.rmtree(out / WORK)


def run_locally(pipeline, arguments: dict, work: Path, debug: bool):
    """Runs a pipeline with ``kfp.local``.

    Args:
        pipeline: decorated with ``dsl.pipeline``.
        arguments: of the pipeline.
        work: folder for what the steps pass on; with the same one, steps that ended with the same arguments are not run again.
        debug: show all that the steps print.

    Returns:
        KFP's task, with ``outputs``.

    Raises:
        MedmarkError: a step failed; its own reason.
    """
    from kfp import local

    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(work / "steps"), enable_caching=True)
    names = {task: spec.task_info.name for task, spec in pipeline.pipeline_spec.root.dag.tasks.items()}
    with StepOutput(work / "steps.log", debug, names) as output, contextlib.redirect_stdout(output):
        warnings.filterwarnings("ignore", "Task .* have no effect in the current local runner")
        try:
            return pipeline(**arguments)
        except RuntimeError as error:
            reason = output.reason or f"see the end of {work / 'steps.log'}, correct the cause"
            raise MedmarkError(f"step {output.step} failed: {reason}; run again, finished steps are kept") from error
