"""Running a pipeline on this machine: every step in a process of its own, finished steps kept, results handed over whole."""

from __future__ import annotations

import contextlib
import os
import shutil
import warnings
from pathlib import Path

from medmark.components.errors import MedmarkError
from medmark.pipelines.local_output import StepOutput

WORK = "work"
COPYING = "copying"  # in it once the steps have ended: what lies beside it then is a copy that may be interrupted


def occupied(out: Path) -> bool:
    """Whether a run's folder holds anything but an unfinished run."""
    return out.exists() and bool(set(os.listdir(out)) - {WORK}) and not (out / WORK / COPYING).exists()


def hand_over(parts: dict[str, Path], out: Path) -> None:
    """Copies release, evidence, keep and record of a run from its steps to where users look.

    A run that is killed meanwhile does it again. ``work/`` is removed by the caller, last.
    """
    (out / WORK / COPYING).touch()
    for folder in ("release", "evidence", "keep"):
        shutil.rmtree(out / folder, ignore_errors=True)
        if folder != "release":
            (out / folder).mkdir(mode=0o700)
        shutil.copytree(parts[folder], out / folder, dirs_exist_ok=True)
    shutil.copyfile(parts["check"] / "record.json", out / "record.json")


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
