"""What adversaries' attacks leave of a mark, and what they cost in accuracy.

    python benchmarks/stress.py --run RUN --work WORK

RUN is the folder of a finished ``medmark run mark-release`` (its ``release/`` and ``evidence/`` are read). Two marked models,
as in marking.py: small_cnn with stronger augmentation, resnet_tiny. Rows are kept in WORK as they come, so an interrupted
run goes on. Writes ``results/stress_<data>.json`` and ``results/stress_<data>.svg``; with ``--attack`` only into WORK.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from marking import MARKED_MODELS, machine
from medmark.components.robustness.attacks import choose
from medmark.components.robustness.stress import stress


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", default="kermany", help="what the results are called")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--attack", action="append", default=[], help="only this one; repeatable")
    options = parser.parse_args()
    marked_models = [replace(marked_model, size=options.size) for marked_model in MARKED_MODELS]
    inputs = (options.run / "release", options.run / "evidence", options.work)
    table = stress(*inputs, marked_models=marked_models, attacks=choose(options.attack))
    numbers = ["wsr", "clean_rate", "delta_p", "accuracy", "accuracy_before", "owned"]
    by_attack = table.assign(owned=table.verdict == "owned").groupby(["kind", "attack", "strength"], sort=False)
    print(by_attack[numbers].mean().round(3).to_string())
    if not options.attack:
        results = Path(__file__).parent / "results"
        found = json.loads((options.work / "stress.json").read_bytes())
        found = {"data": options.data, "size": options.size, "machine": machine(), **found}
        (results / f"stress_{options.data}.json").write_text(json.dumps(found, indent=1) + "\n")
        (results / f"stress_{options.data}.svg").write_bytes((options.work / "stress.svg").read_bytes())


if __name__ == "__main__":
    main()
