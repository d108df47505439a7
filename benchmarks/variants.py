"""Whether models know the images as they were published, and whether models that never saw them do not.

    python benchmarks/variants.py --data kermany --owners 2 --strangers 1 --work WORK

Each owner marks the same clean images, and networks are trained on each marked release, at 64 px: those of the other benchmarks, and a small
residual network until it fits its training images, with and without augmentation. Every model is asked about its owner's variants and about
those of all others, and benign models about everybody's: none of these learned from that release, so few of their p-values may be small. Writes
``results/variants_<data>_64.json``: ``own``, a row a model with ``p``, ``lead``, ``accuracy`` on test images and ``fit``, the accuracy on its
own training images; ``others``, p-values of models that did not learn from the release, ``others_below``, how many of
them are at most 0.001, 0.01 and 0.05, and ``left_alone``, how many were left alone after 50 images. A stopped run continues in WORK.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from marking import MARKED_MODELS, Bench, machine, release_of
from medmark.components.base.progress import track
from medmark.components.base.threads import use_threads
from medmark.components.dataset.arrays import load_arrays
from medmark.components.dataset.release import Release
from medmark.components.evidence.evidence import read_evidence
from medmark.components.evidence.variants import VARIANTS, read_variants
from medmark.components.generator.marker import Marker
from medmark.components.poisoning.variants import make_variants
from medmark.components.saliency.extract import load_saliency
from medmark.components.surrogate.models import load_models, train_models
from medmark.components.surrogate.training import TrainConfig, accuracy, predict_probabilities
from medmark.components.verification.variant_test import variant_test
from other_owners import STRANGERS, draw, mark, profile_of

SIZE, BENIGN_MODELS, LEVELS = 64, 6, (0.001, 0.01, 0.05)
FITTED = TrainConfig(
    name="fitted", architecture="resnet_tiny", augmentation="none", seed=7, learning_rate=1e-3, epochs=30, patience=30
)
MODELS = (
    *MARKED_MODELS,
    FITTED,
    replace(FITTED, name="fitted, augmented", augmentation="standard", epochs=40, patience=40),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("phantoms", "kermany"), default="kermany")
    parser.add_argument("--owners", type=int, default=2)
    parser.add_argument("--strangers", type=int, default=1)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    use_threads()
    release_of(options.data, options.work, profile_of(options.data).phantoms)
    bench = Bench(options.data, options.work, size=SIZE, benign_models=BENIGN_MODELS)
    own, others, owners = [], [], {}
    for seed in track(range(options.owners), "marking for each owner"):
        folder = options.work / f"owner-{seed}"
        if not (folder / "evidence" / "evidence.json").exists():
            mark(bench, folder, seed)
        configs = [replace(config, size=SIZE, seed=config.seed + seed) for config in MODELS]
        train_models(folder / "release", folder / "models", configs=configs)
        owners[seed] = folder
    strangers = {}
    for seed in track(range(STRANGERS, STRANGERS + options.strangers), "drawing strangers' variants"):
        strangers[seed] = options.work / f"stranger-{seed}"
        if not (strangers[seed] / VARIANTS).exists():
            draw(bench, strangers[seed], seed)
            marker = Marker.load(strangers[seed] / "generator")
            saliency = load_saliency(options.work / "saliency")
            make_variants(bench.release, marker, saliency, options.work / "panel", strangers[seed])
    everybody = {seed: folder / "evidence" for seed, folder in owners.items()} | strangers
    for seed, folder in track(owners.items(), "asking about variants"):
        train = load_arrays(Release(folder / "release"), split="train", size=SIZE)
        for entry, model in load_models(folder / "models"):
            suspect = partial(predict_probabilities, model)
            found = {
                whose: variant_test(suspect, read_variants(place, size=SIZE, seed=whose))
                for whose, place in everybody.items()
            }
            others += [one.p_value for whose, one in found.items() if whose != seed]
            row = {"owner": seed, "model": entry["name"], "architecture": entry["architecture"]}
            row |= {"epochs": entry["config"]["epochs"], "augmentation": entry["config"]["augmentation"]}
            row |= {"p": found[seed].p_value, "lead": found[seed].lead, "images": found[seed].images}
            own.append(row | {"accuracy": accuracy(model, bench.test), "fit": accuracy(model, train)})
            print(own[-1], flush=True)
    for model in bench.benign_models:
        suspect = partial(predict_probabilities, model)
        others += [
            variant_test(suspect, read_variants(place, size=SIZE, seed=whose)).p_value
            for whose, place in everybody.items()
        ]
    results = bench.described() | {
        "own": own,
        "others": others,
        "others_below": {str(level): int(np.sum(np.array(others) <= level)) for level in LEVELS},
        "left_alone": int(np.sum(np.array(others) == 1.0)),
        "marked_images": {seed: read_evidence(folder / "evidence")["marked_images"] for seed, folder in owners.items()},
        "machine": machine(),
    }
    path = Path(__file__).parent / "results" / f"variants_{options.data}_{SIZE}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
