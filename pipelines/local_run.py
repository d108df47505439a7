"""Running a pipeline on this machine: every step in a process of its own, finished steps kept."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path

from medmark.components.errors import MedmarkError
from medmark.pipelines.local_output import StepOutput


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
