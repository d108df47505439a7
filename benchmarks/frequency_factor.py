"""Whether networks of 128 px learn a mark, and tell its key, better if its waves are finer than medmark makes them.

    python benchmarks/frequency_factor.py --seeds 2 --work WORK

Kermany x-rays. Marks as the profile ``standard`` makes them (share, decoys, epsilon), with one or two times as many periods as the table of keys
says, as strong or fainter; in memory, and not hidden as a release hides them. Rows are kept as they come. Writes ``results/frequency_factor_kermany.json``:
of each row

- ``rank``: of the key among 1,800, by :mod:`medmark.components.verification.key_test`, with questions as fine as the marks;
- ``wsr``: of images of the other class with questions as strong as an audit's, ``wsr_half``: at half resolution, ``wsr_clean``: without a mark;
- ``accuracy``; ``ssim``: of the marked images at 128 px.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import piq
import torch
from key_pairs import drawn, marked
from marking import MARKED_MODELS, machine, release_of
from medmark.components.base.threads import use_threads
from medmark.components.dataset.arrays import load_arrays, resize
from medmark.components.dataset.release import Release
from medmark.components.evidence.key_answers import KeyAnswers
from medmark.components.generator.key import SLOPE, Key, draw_key, in_image
from medmark.components.generator.marker import QUERIED, carriers
from medmark.components.generator.selection import select
from medmark.components.profiles import PROFILES
from medmark.components.saliency.extract import extract, load_saliency, stack_saliency
from medmark.components.surrogate.models import load_models, train_models
from medmark.components.surrogate.networks import Classifier
from medmark.components.surrogate.training import TrainConfig, accuracy, predict_probabilities, train_classifier
from medmark.components.verification import key_test

SIZE, TARGET, QUERIES = 128, 0, 120
PANEL = ("small_cnn", "resnet_tiny")
BENIGN_MODELS = 6  # as many as an audit's key test has
DESIGNS = {  # times the periods, and times epsilon
    "as in the table": (1.0, 1.0),
    "twice as fine": (2.0, 1.0),
    "twice as fine, fainter": (2.0, 0.75),
}
DEEPER = replace(MARKED_MODELS[1], architecture="resnet18", epochs=PROFILES["standard"].other_epochs)


def finer(keys: list[Key], factor: float) -> list[Key]:
    return [replace(key, cycles=key.cycles * factor) for key in keys]


def answers_to(model: Classifier, images: torch.Tensor, factor: float) -> KeyAnswers:
    """What an audit would be told that asks about waves so much finer."""
    with patch.object(key_test, "carriers", lambda keys, side: carriers(finer(keys, factor), side)):
        return key_test.ask_waves(partial(predict_probabilities, model), images, TARGET)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--resnet18", action="store_true", help="train this network alone, which takes long")
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    use_threads()
    profile, work = PROFILES["standard"], options.work
    release = Release(release_of("kermany", work))
    base = TrainConfig(name="", size=SIZE, epochs=profile.epochs)
    panel = [
        replace(base, name=f"surrogate-{i}", seed=100 + i, subset=0.85, architecture=name)
        for i, name in enumerate(PANEL)
    ]
    benign = [
        replace(base, name=f"benign-{i}", seed=1000 + i, subset=0.9, architecture=PANEL[i % 2])
        for i in range(BENIGN_MODELS)
    ]
    train_models(release.path, work / "panel", configs=panel)
    train_models(release.path, work / "benign", configs=benign)
    surrogates, benign_models = ([m for _, m in load_models(work / kind)] for kind in ("panel", "benign"))
    if not (work / "saliency").exists():
        extract(release.path, work / "panel" / "surrogate-0.safetensors", work / "saliency")
    maps = load_saliency(work / "saliency")
    train, val, test = (load_arrays(release, split=split, size=SIZE) for split in ("train", "val", "test"))
    others = torch.nonzero(test.labels != TARGET)[:QUERIES, 0]
    clean, salient = test.images[others], stack_saliency(maps, [test.image_ids[i] for i in others])
    saliency = stack_saliency(maps, train.image_ids)

    def success(model: Classifier, images: torch.Tensor) -> float:
        return float((predict_probabilities(model, images)[:, TARGET] > 0.5).mean())

    path = Path(__file__).parent / "results" / "frequency_factor_kermany.json"
    results = json.loads(path.read_text()) if path.exists() else {"rows": {}}
    results |= {"data": "kermany", "size": SIZE, "counts": release.counts, "release_digest": release.digest}
    results |= {"machine": machine(), "epsilon": profile.epsilon, "designs": DESIGNS}
    results["benign_accuracy"] = float(np.mean([accuracy(model, test) for model in benign_models]))
    few = clean[: key_test.IMAGES]
    answers = {factor: [answers_to(model, few, factor) for model in benign_models] for factor in (1.0, 2.0)}
    for seed in range(options.seeds):
        own, rng = draw_key(seed), np.random.default_rng((seed, 5))
        shares = {"marked_share": profile.marked_share, "decoy_share": profile.decoy_share}
        roles = select(train, surrogates, target=TARGET, seed=seed, **shares)
        named = {
            role: [i for i, name in enumerate(train.image_ids) if roles.get(name) == role] for role in ("mark", "decoy")
        }
        waves = {
            "mark": [in_image(own, seed, train.image_ids[i]) for i in named["mark"]],
            "decoy": [in_image(drawn(rng, [own]), seed, train.image_ids[i]) for i in named["decoy"]],
        }
        asked = [in_image(own, seed, str(number)) for number in range(len(clean))]
        for design, (factor, strength) in DESIGNS.items():
            # a wave is as strong as that of the table which it is made from
            epsilon, images = strength * profile.epsilon * factor**SLOPE, train.images.clone()
            for role, chosen in named.items():
                images[chosen] = marked(train.images[chosen], saliency[chosen], finer(waves[role], factor), epsilon)
            changed, unchanged = (some[named["mark"]] for some in (images, train.images))
            queries = marked(clean, salient, finer(asked, factor), epsilon * QUERIED)
            for config in (DEEPER,) if options.resnet18 else MARKED_MODELS:
                name = f"{design}, seed {seed}, {config.architecture}"
                if name in results["rows"]:
                    continue
                config = replace(config, size=SIZE, seed=config.seed + seed)
                model = train_classifier(replace(train, images=images), val, config, num_classes=2).model
                results["rows"][name] = {
                    "key": [own.degrees, round(own.cycles, 2)],
                    "rank": key_test.key_test(answers_to(model, few, factor), answers[factor], own).rank,
                    "wsr": success(model, queries),
                    "wsr_half": success(model, resize(resize(queries, SIZE // 2), SIZE)),
                    "wsr_clean": success(model, clean),
                    "accuracy": accuracy(model, test),
                    "ssim": float(piq.ssim(changed, unchanged, data_range=1.0, downsample=False)),
                }
                path.write_text(json.dumps(results, indent=1) + "\n")
                print(name, results["rows"][name], flush=True)


if __name__ == "__main__":
    main()
