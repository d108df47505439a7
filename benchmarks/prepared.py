"""What resizing to 8 bits changes: models that learn from prepared images beside models that learn from floats.

    python benchmarks/prepared.py --data kermany --work WORK

Each pair has one configuration and one seed. What 8 bits change is set beside what another seed changes.
"""

from __future__ import annotations

import argparse
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from marking import machine, release_of
from medmark.components.dataset.arrays import ImageArrays, colour_tensor, resize
from medmark.components.dataset.prepared import load_bytes, prepare
from medmark.components.dataset.release import SPLITS, Release
from medmark.components.surrogate.training import TrainConfig, accuracy, predict_probabilities, train_classifier

RESULT = Path(__file__).parent / "results" / "prepared_kermany.json"
CONFIG = TrainConfig("x", size=64, epochs=4)
SEEDS = range(3)


def floats(release: Release, arrays: ImageArrays, split: str) -> ImageArrays:
    """The split as it is before it is rounded."""
    images = [resize(colour_tensor(r, release.image_mode), CONFIG.size)[0] for r in release.records(split)]
    return replace(arrays, images=torch.stack(images))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    release = Release(release_of(options.data, options.work))
    kept = prepare(release.path, options.work / "prepared", size=CONFIG.size)
    whole = {split: load_bytes(kept, split=split, size=CONFIG.size) for split in SPLITS}
    exact = {split: floats(release, whole[split], split) for split in SPLITS}
    answers, shares = {}, {}
    for kind, data in (("8 bits", whole), ("floats", exact)):
        for seed in SEEDS:
            config = replace(CONFIG, seed=seed)
            model = train_classifier(data["train"], data["val"], config, num_classes=len(release.class_names)).model
            answers[kind, seed] = predict_probabilities(model, exact["test"].images)[:, 1]
            shares[kind, seed] = accuracy(model, data["test"])
    apart = [float(np.abs(answers["8 bits", s] - answers["floats", s]).mean()) for s in SEEDS]
    seeds = [
        float(np.abs(answers["floats", a] - answers["floats", b]).mean()) for a, b in itertools.combinations(SEEDS, 2)
    ]
    result = {
        "machine": machine(),
        "release_digest": release.digest,
        "size": CONFIG.size,
        "epochs": CONFIG.epochs,
        "test_accuracy": {kind: [shares[kind, seed] for seed in SEEDS] for kind in ("8 bits", "floats")},
        "mean_difference_of_answers": {"8 bits and floats": apart, "two seeds": seeds},
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
