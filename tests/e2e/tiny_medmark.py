"""The ``medmark`` of the guides' tests: the real one, but small.

Models are so small that they learn nothing. So pipelines get tiny settings, no verdict but an error ends a guide, and what
a guide publishes counts as owned. A fixed seed, because few images split by chance may leave too few to ask about.
Everything else is what users run.
"""

import sys

from medmark.pipelines.submitting import local
from warm_medmark import cli

TINY = {
    "size": 64, "epochs": 1, "other_architecture": "resnet_tiny", "other_epochs": 1, "surrogates": 1, "benign_models": 2,
    "queries": 20, "phantoms": 120,
}  # fmt: skip
OTHER_VERDICT = 3  # exit code


def called_owned(run):
    def told(*arguments):
        verdict = run(*arguments)
        return verdict if verdict["verdict"] == "unchanged" else verdict | {"verdict": "owned"}

    return told


for name, runner in list(local.RUNNERS.items()):
    local.RUNNERS[name] = called_owned(runner)
if "mark-release" in sys.argv[1:3]:
    sys.argv += ["--profile", "smoke", *(f"--set={name}={value}" for name, value in TINY.items())]
    sys.argv += ["--seed", "15"] if sys.argv[1] == "run" else []
sys.argv[0] = "medmark"
try:
    cli.main()
except SystemExit as end:
    sys.exit(0 if end.code == OTHER_VERDICT and sys.argv[1] in ("run", "audit") else end.code)
