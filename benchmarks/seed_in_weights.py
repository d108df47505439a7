"""Whether trained weights tell the seed that they began with, and a generator's answers the key of its mark.

If they do, networks whose seeds follow from the mark's must not be handed out. One classifier and one generator, trained on 800
phantoms of 128 px; the search compares the first layer with what each of 2^18 seeds draws.

python benchmarks/seed_in_weights.py --work WORK
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from marking import machine, release_of
from medmark.components.dataset.arrays import load_arrays, resize
from medmark.components.dataset.release import Release
from medmark.components.generator.key import CYCLES, DEGREES, Key
from medmark.components.generator.marker import Marker, Shape, carrier
from medmark.components.generator.network import ConditionalUNet
from medmark.components.generator.train import GeneratorConfig, train_generator
from medmark.components.saliency.extract import extract
from medmark.components.surrogate.models import load_models, train_models
from medmark.components.surrogate.networks import build
from medmark.components.surrogate.training import TrainConfig

RESULT = Path(__file__).parent / "results" / "seed_in_weights.json"
SEED = 123_456_789
TRIED = 2**18
KEYS = 400
CLASSIFIER = TrainConfig(name="s", size=128, epochs=12, seed=SEED)
STEPS = 150


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return round(float(torch.corrcoef(torch.stack([a.flatten().double(), b.flatten().double()]))[0, 1]), 3)


def correlations(trained: torch.nn.Module, first: torch.nn.Module) -> dict[str, float]:
    """Of each layer's weights with those that it began with."""
    before = first.state_dict()
    return {name: correlation(w, before[name]) for name, w in trained.state_dict().items() if w.ndim >= 2}


def search(weights: torch.Tensor) -> dict:
    """Tries seeds around the true one on the first layer's weights."""
    wanted = weights.flatten() - weights.mean()
    drawn, found, started = torch.empty(len(wanted)), {}, time.monotonic()
    for seed in range(SEED - TRIED // 2, SEED + TRIED // 2):
        torch.manual_seed(seed)
        drawn.uniform_(-1, 1)
        found[seed] = float(torch.dot(drawn, wanted) / (drawn.norm() * wanted.norm()))
    seconds = time.monotonic() - started
    true = found.pop(SEED)
    return {
        "seeds_tried": TRIED,
        "weights_compared": len(wanted),
        "true_seed": round(true, 3),
        "next_best": round(max(found.values()), 3),
        "milliseconds_a_seed": round(1000 * seconds / TRIED, 3),
    }


@torch.no_grad()
def spread(marker: Marker, images: torch.Tensor, key: Key) -> float:
    """Standard deviation of the U-Net's answer to a carrier, asked as anyone can who has it: without saliency."""
    half = marker.shape.size // 2
    seen = resize(images, half)
    given = [(seen - 0.5) / 0.25, torch.zeros_like(seen), carrier(key, half).expand_as(seen), torch.ones_like(seen)]
    return float(torch.tanh(marker.network(torch.cat(given, dim=1))).std())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    work = parser.parse_args().work
    release = release_of("phantoms", work)
    index = train_models(release, work / "models", configs=[CLASSIFIER], workers=1)
    classifier = load_models(work / "models")[0][1]
    first = build(CLASSIFIER.architecture, num_classes=2, size=CLASSIFIER.size, seed=SEED)
    by_layer = correlations(classifier.network, first.network)
    extract(release, work / "models" / "s.safetensors", work / "saliency")
    config = GeneratorConfig(steps=STEPS, shape=Shape(size=128))
    inputs = (release, work / "models", work / "saliency", work / "generator")
    train_generator(*inputs, target_class="", config=config, seed=SEED)
    marker = Marker.load(work / "generator")
    torch.manual_seed(SEED)
    untrained = ConditionalUNet()
    rng = np.random.default_rng(0)
    keys = [
        Key(float(rng.choice(DEGREES)), float(rng.choice(CYCLES)), float(rng.uniform(0, 2 * math.pi)))
        for _ in range(KEYS)
    ]
    images = load_arrays(Release(release), split="train", size=128).images[:8]
    spreads = [spread(marker, images, key) for key in keys]
    apart = [abs(key.degrees - marker.key.degrees) for key in keys]
    result = {
        "data": "phantoms, 800 images, 128 px",
        "seed": SEED,
        "machine": machine(),
        "classifier": {
            "architecture": CLASSIFIER.architecture,
            "epochs": CLASSIFIER.epochs,
            "test_accuracy": index["models"][0]["test_accuracy"],
            "correlation_with_first_weights": by_layer,
        },
        "search": search(next(w for w in classifier.network.state_dict().values() if w.ndim == 4).contiguous()),
        "generator": {
            "steps": STEPS,
            "correlation_with_first_weights": correlations(marker.network, untrained)["down0.0.weight"],
            "keys": KEYS,
            "correlation_of_spread_with_degrees_from_key": round(float(np.corrcoef(spreads, apart)[0, 1]), 2),
        },
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
