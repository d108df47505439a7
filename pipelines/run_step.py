"""Runs a step in its pod, and says the reason of a failure in one line wherever somebody may look for it.

``compile_pipeline`` puts it in front of KFP's executor: ``python3 -m medmark.pipelines.run_step kfp.dsl.executor_main ...``. An exit handler could
not do it: KFP 2.17 tells it the state of a failed step and not the reason.
"""

from __future__ import annotations

import runpy
import sys

from medmark.components.base.termination import leave_message
from medmark.components.base.text import reason_of


def main() -> None:
    """Runs the module that the arguments name, with the rest of them; the log gets a traceback, other places the reason alone."""
    del sys.argv[0]
    step = sys.argv[sys.argv.index("--function_to_execute") + 1]
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except Exception as error:
        reason = reason_of(error, 2000)
        leave_message(reason)
        from medmark.components.tracking.failures import log_failure

        log_failure(step, reason)
        raise


if __name__ == "__main__":
    main()
