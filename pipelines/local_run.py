"""Runs a pipeline on this machine: every step in a process of its own, finished steps are kept, results are handed over whole."""

from __future__ import annotations

import builtins
import contextlib
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from medmark.components.base.errors import MedmarkError
from medmark.components.base.private_files import LOCK, check_own, close_to_others, open_to_others, private_folder
from medmark.components.tracking.connection import is_named
from medmark.pipelines.local_output import StepOutput

if TYPE_CHECKING:
    from kfp.dsl import PipelineTask
    from kfp.dsl.graph_component import GraphComponent

WORK = "work"
HANDED_OVER = ("release", "model", "evidence", "keep")
PUBLIC = ("release", "model", "record.json")
COPYING = "copying"  # file in it once the steps have ended; everything beside it may then be an interrupted copy


def refuse_occupied(out: Path) -> None:
    """Refuses a folder that holds anything but an unfinished run.

    Raises:
        MedmarkError: the folder holds something else, or somebody else may have written to the unfinished run.
    """
    if set(os.listdir(out)) - {WORK, LOCK} and not (out / WORK / COPYING).exists():
        raise MedmarkError(f"not empty: {out}; choose a new folder with --out, or remove what is there")
    if os.path.lexists(out / WORK):
        check_own(out / WORK, f"check who else could write there, then remove {out / WORK} and start the run again")


def private_work(out: Path) -> Path:
    """Makes the folder for what the steps of a run pass on, which includes generators and evidence."""
    return private_folder(out / WORK)


def kept_phantoms(work: Path, make: Callable[..., Path], **arguments: int) -> Path:
    """Makes phantoms once a run, and the same for every run: phantoms drawn from the run's seed would let anybody try seeds.

    Args:
        work: folder of :func:`private_work`.
        make: takes a folder to make, ``arguments`` and ``seed``.
        arguments: such as ``count`` and ``size``.
    """
    source, drawing = work / "-".join(["phantoms", *map(str, arguments.values())]), work / "drawing"
    if not source.exists():
        shutil.rmtree(drawing, ignore_errors=True)
        make(drawing, **arguments, seed=0).rename(source)
    return source


def hand_over(parts: dict[str, Path], out: Path) -> None:
    """Copies release, model, evidence, keep and record of a run, as far as it made them, from its steps to where users look for them.

    A run that is killed meanwhile does it again; the caller removes ``work/`` last. Everybody who may enter the folder can then
    read release, model and record, and only its owner the rest.

    Args:
        parts: path of each output of the pipeline.
        out: folder of the run.
    """
    (out / WORK / COPYING).touch()
    for folder in HANDED_OVER:
        if folder in parts:
            shutil.rmtree(out / folder, ignore_errors=True)
            shutil.copytree(parts[folder], out / folder)
            if folder not in PUBLIC:
                close_to_others(out / folder)
    if "record" in parts:
        shutil.copyfile(parts["record"], out / "record.json")
    for public in PUBLIC:
        if (out / public).exists():
            open_to_others(out / public)


def log_run(parts: dict[str, Path], out: Path, track: Callable[[], None]) -> None:
    """Sees to it that MLflow has a run: the pipeline's own step has logged it if the environment names a server.

    Args:
        parts: path of each output of the pipeline.
        out: folder of the run; gets what the server did not take.
        track: logs the run into the folder.
    """
    if not is_named():
        track()
    elif (parts["unlogged"] / "unlogged").is_dir():
        shutil.copytree(parts["unlogged"] / "unlogged", out / "unlogged", dirs_exist_ok=True)


def remove_work(out: Path) -> None:
    """Ends a run. ``work/`` goes last: while its steps are removed, it still says that the run was handed over."""
    shutil.rmtree(out / WORK / "steps")
    shutil.rmtree(out / WORK)


def run_locally(pipeline: GraphComponent, arguments: dict, work: Path, debug: bool) -> PipelineTask:
    """Runs a pipeline with ``kfp.local``.

    Args:
        pipeline: a function decorated with ``dsl.pipeline``.
        arguments: arguments of the pipeline.
        work: folder for what the steps pass on. A step that ended there before, with the same arguments, is not run again.
        debug: show all that the steps print.

    Returns:
        KFP's task, which has the pipeline's ``outputs``.

    Raises:
        MedmarkError: a step failed; the message gives its reason.
    """
    from kfp import local

    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(work / "steps"), enable_caching=True)
    components = (pipeline.pipeline_spec.root, *pipeline.pipeline_spec.components.values())
    names = {
        spec.component_ref.name.removeprefix("comp-"): spec.task_info.name
        for one in components
        for spec in one.dag.tasks.values()
    }
    with StepOutput(work / "steps.log", debug, names) as output, contextlib.redirect_stdout(output):
        warnings.filterwarnings("ignore", "Task .* have no effect in the current local runner")
        plain = print
        try:
            return pipeline(**arguments)
        except RuntimeError as error:
            reason = output.reason or f"see the end of {work / 'steps.log'}, correct the cause"
            raise MedmarkError(f"step {output.step} failed: {reason}; run again, finished steps are kept") from error
        finally:
            builtins.print = plain  # kfp.local leaves one that indents if two steps of a loop end crosswise
