"""The ``medmark`` that is installed, with steps forked from the Python that ``WARM_PYTHON`` names, see ``warm_python.py``."""

import os
import sys
from types import SimpleNamespace

from kfp.local import subprocess_task_handler
from medmark.pipelines import cli

subprocess_task_handler.sys = SimpleNamespace(executable=os.environ["WARM_PYTHON"])
if __name__ == "__main__":
    sys.argv[0] = "medmark"
    cli.main()
