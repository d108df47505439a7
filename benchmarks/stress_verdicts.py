"""What attacks leave of the verdict, with the marks and proofs of today.

    python benchmarks/stress_verdicts.py --data kermany --owner 4 --work WORK

WORK is that of ``other_owners.py`` at 64 px. The owner's evidence is completed with the answers of that benchmark's benign models, as a finished
mark-release would. The adversary trains the network that learns the mark best there, small_cnn with stronger augmentation; an owner whom the other
benchmark calls ``owned`` with it shows what attacks take away. Rows are kept in WORK as they come. Writes
``results/stress_verdicts_<data>_64_owner-<n>.json``, as ``stress.py`` does.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
from marking import MARKED_MODELS, Bench, machine
from medmark.components.evidence.queries import read_queries
from medmark.components.generator.marker import Marker
from medmark.components.profiles import THRESHOLDS
from medmark.components.robustness.attacks import choose
from medmark.components.robustness.stress import stress
from medmark.components.surrogate.training import predict_probabilities
from medmark.components.verification.interrogation import interrogate
from medmark.components.verification.key_test import IMAGES, ask_waves
from medmark.components.verification.scenarios import ASKED_FOR_KEY, table
from medmark.components.verification.sealing import seal_evidence
from other_owners import BENIGN_MODELS

SIZE = 64


def complete(bench: Bench, folder: Path) -> Path:
    """The owner's evidence with the benign models' answers."""
    evidence = folder / "complete"
    if (evidence / "evidence.json").exists():
        return evidence
    target = Marker.load(folder / "generator").target
    queries = read_queries(folder / "evidence", size=SIZE, target=target)
    benign = {f"benign-{n}": partial(predict_probabilities, model) for n, model in enumerate(bench.benign_models)}
    scores = pd.concat(table("innocent", name, queries, interrogate(ask, queries)) for name, ask in benign.items())
    asked = list(benign.items())[-ASKED_FOR_KEY:]
    waves = {name: ask_waves(ask, queries.clean[:IMAGES], target) for name, ask in asked}
    seal_evidence(folder / "evidence", evidence, scores, THRESHOLDS, waves=waves)
    return evidence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("phantoms", "kermany", "nih"), default="kermany")
    parser.add_argument("--owner", type=int, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--attack", action="append", default=[], help="only this one; repeatable")
    options = parser.parse_args()
    bench = Bench(options.data, options.work, size=SIZE, benign_models=BENIGN_MODELS)
    folder = options.work / f"owner-{options.owner}"
    out = folder / "stress"
    inputs = (folder / "release", complete(bench, folder), out)
    rows = stress(*inputs, marked_models=[replace(MARKED_MODELS[0], size=SIZE)], attacks=choose(options.attack))
    print(rows[["kind", "attack", "strength", "wsr", "accuracy", "verdict", "lacks"]].round(3).to_string())
    if not options.attack:
        found = {"data": options.data, "size": SIZE, "owner": options.owner, "benign_models": BENIGN_MODELS}
        found |= {"machine": machine(), **json.loads((out / "stress.json").read_bytes())}
        name = f"stress_verdicts_{options.data}_{SIZE}_owner-{options.owner}.json"
        (Path(__file__).parent / "results" / name).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
