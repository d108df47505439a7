"""Why a step failed, for MLflow. A server may be shared and a reason may name a file or a patient: only medmark's own words go there."""

from __future__ import annotations

import ast
import os
import re
import sys
from functools import cache
from pathlib import Path

from medmark.components.base.text import reason_of
from medmark.components.tracking.connection import quiet, take_secret

ERROR, STEP = "medmark.error", "medmark.failed_step"  # tags
OURS = Path(__file__).parents[1]
PARTS = re.compile(r"'[^']*'|\"[^\"]*\"|[^\s,;:()]+")  # of a message: what is quoted, and words
WORD = re.compile(r"[a-z]+(['-][a-z]+)*\.?")


def log_failure(step: str, reason: str) -> None:
    """Says in the run that KFP's MLflow plugin opened for this step, and in the run above it, why the step failed.

    The plugin itself ends both as failed. Nothing happens where no run was opened. Tracking never fails a step: what MLflow raises becomes
    a line on standard error.

    Args:
        step: name of the step.
        reason: one line; see :func:`own_words` for what of it is sent.
    """
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if not run_id:
        return
    try:
        take_secret()
        quiet()
        from mlflow import MlflowClient

        client, said = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI")), {ERROR: own_words(reason), STEP: step}
        parent = client.get_run(run_id).data.tags.get("mlflow.parentRunId")
        for run in filter(None, (run_id, parent)):
            for tag, value in said.items():
                client.set_tag(run, tag, value)
    except Exception as error:  # whatever MLflow or its server raises
        print(f"MLflow was not told why this step failed ({reason_of(error)})", file=sys.stderr)


def own_words(reason: str) -> str:
    """What of a message may go to a shared server: lower-case words that medmark's own messages have. Everything else becomes ``...``."""
    known = _vocabulary()

    def shown(part: re.Match) -> str:
        word = part[0]
        return word if WORD.fullmatch(word) and word.rstrip(".") in known else "..."

    return re.sub(r"\.\.\.(\s+\.\.\.)+", "...", PARTS.sub(shown, reason))


@cache
def _vocabulary() -> set[str]:
    """The words of all texts in medmark's code, without its docstrings: those name people whose methods it uses."""
    words: set[str] = set()
    for file in OURS.rglob("*.py"):
        tree = ast.parse(file.read_bytes())
        told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
                words.update(word.rstrip(".") for word in PARTS.findall(node.value) if WORD.fullmatch(word))
    return words
