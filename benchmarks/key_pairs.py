"""Whether two waves would tell owners apart better than one, and what hardening or stronger marks add.

    python benchmarks/key_pairs.py --data kermany --seeds 3 --work WORK

A design is a way to mark; each is tried with the keys of some seeds and two networks, at 64 px and in memory, marks not hidden as a release
hides them. In all of them each image has a phase of its own and 18 % of the training images are marked, if nothing else is said. ``p`` is
the share of keys that fit the answers at least as well as the key, with benign models' mean subtracted or not, whichever is larger; an audit's
(:mod:`medmark.components.verification.key_test`) is no larger than that:

- one wave: of all waves of the table, as medmark marks today;
- two waves: each marked image carries one of two, which lie at least 15 degrees or 0.3 octaves apart; of all such pairs, by the fit of
  both waves' expected answers together;
- opposing: the target class carries one wave, the other class another one, 14 % of the training images each, no decoys; of all ordered
  pairs, by the difference of both fits.

Rows are kept as they come. Writes ``results/key_pairs_<data>.json``: of each row ``p``, ``wsr`` of each wave with queries as strong as an audit's,
``accuracy`` and ``ssim`` at 64 px; and ``benign_accuracy``.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import piq
import torch
from key_attempts import harden
from marking import MARKED_MODELS, Bench, release_of
from medmark.components.base.threads import use_threads
from medmark.components.dataset.phantoms import TARGET_CLASS
from medmark.components.evidence.key_answers import KeyAnswers
from medmark.components.generator import key as table
from medmark.components.generator.key import DECOYS_APART, Key, draw_key, in_image
from medmark.components.generator.marker import AMPLITUDE, QUERIED, carriers
from medmark.components.generator.selection import select
from medmark.components.profiles import PROFILES
from medmark.components.surrogate.training import accuracy, predict_probabilities, train_classifier
from medmark.components.verification.key_test import IMAGES, OWN_SHARE, PRIOR_MODELS, _expected, ask_waves
from torch.nn import functional as F

SIZE, BENIGN_MODELS = 64, 20
# share: of the training images, of each class that carries a wave; hardened: largest change, as in key_attempts.py; stronger: than the profile's epsilon
DESIGNS = {
    "one wave": {"waves": 1},
    "one wave, hardened": {"waves": 1, "hardened": 0.03},
    "two waves": {"waves": 2},
    "two waves, hardened": {"waves": 2, "hardened": 0.015},
    "two waves, a quarter stronger": {"waves": 2, "stronger": 1.25},
    "two waves, a quarter stronger, hardened": {"waves": 2, "stronger": 1.25, "hardened": 0.015},
    "opposing": {"waves": 2, "opposing": True, "share": 0.14},
    "opposing, hardened": {"waves": 2, "opposing": True, "share": 0.14, "hardened": 0.03},
}


def apart(key: Key, other: Key) -> bool:
    """Whether a model that learned one of two waves hardly answers to the other."""
    degrees, octaves = DECOYS_APART
    return abs(key.degrees - other.degrees) > degrees or abs(math.log2(key.cycles / other.cycles)) > octaves


def drawn(rng: np.random.Generator, others: list[Key]) -> Key:
    """A wave of the table that is apart from others."""
    while True:
        key = Key(table.DEGREES[rng.integers(len(table.DEGREES))], table.CYCLES[rng.integers(len(table.CYCLES))], 0.0)
        if all(apart(key, other) for other in others):
            return key


def marked(images: torch.Tensor, saliency: torch.Tensor, keys: list[Key], strength: float) -> torch.Tensor:
    """Images with a wave each, rounded to 8 bits."""
    side = images.shape[-1]
    strengths = torch.tensor([strength * key.strength * AMPLITUDE for key in keys])[:, None, None, None]
    gate = 0.3 + 0.7 * F.interpolate(saliency, size=(side, side), mode="bilinear", align_corners=False)
    return ((images + strengths * gate * carriers(keys, side)).clamp(0, 1) * 255).round() / 255


def poisoned(
    bench: Bench, own: list[Key], design: dict, target: int, epsilon: float, seed: int
) -> tuple[torch.Tensor, float]:
    """The training images, some of them marked; and the SSIM of the marked ones."""
    train, saliency, rng = bench.train, bench.saliency["train"], np.random.default_rng((seed, 5))
    images, likeness = train.images.clone(), []
    share, opposing = design.get("share", 0.18), design.get("opposing", False)
    for label, keys in ((target, own[:1]), (1 - target, own[1:])) if opposing else ((target, own),):
        roles = select(
            train, bench.panel, target=label, marked_share=share, decoy_share=0.0 if opposing else 0.1, seed=seed
        )
        named = {
            role: [i for i, name in enumerate(train.image_ids) if roles.get(name) == role] for role in ("mark", "decoy")
        }
        chosen = named["mark"]
        which = rng.permutation(len(chosen)) % len(keys)
        waves = [in_image(keys[w], seed, train.image_ids[i]) for w, i in zip(which, chosen, strict=True)]
        torch.manual_seed(seed)
        base = train.images[chosen]
        if "hardened" in design:
            base = harden(bench.panel, base, label, design["hardened"])
        images[chosen] = marked(base, saliency[chosen], waves, epsilon)
        likeness.append(float(piq.ssim(images[chosen], train.images[chosen], data_range=1.0, downsample=False)))
        if named["decoy"]:
            decoys = [in_image(drawn(rng, own), seed, train.image_ids[i]) for i in named["decoy"]]
            images[named["decoy"]] = marked(train.images[named["decoy"]], saliency[named["decoy"]], decoys, epsilon)
    return images, float(np.mean(likeness))


def p_value(given: np.ndarray, benign: np.ndarray, own: list[Key], opposing: bool) -> float:
    """Share of keys that fit at least as well; the worse of both ways."""
    mean, variance = benign.mean(axis=0), benign.var(axis=0, ddof=1)
    moderated = (PRIOR_MODELS * variance.mean() + (len(benign) - 1) * variance) / (PRIOR_MODELS + len(benign) - 1)
    scale = np.sqrt(moderated + OWN_SHARE**2 * np.mean((given - mean) ** 2))
    expected = _expected().reshape(table.KEYS, -1)
    places = [table.CYCLES.index(k.cycles) * len(table.DEGREES) + table.DEGREES.index(k.degrees) for k in own]
    cycles = np.repeat(np.log2(table.CYCLES), len(table.DEGREES))
    degrees = np.tile(table.DEGREES, len(table.CYCLES))
    far = (np.abs(np.subtract.outer(degrees, degrees)) > DECOYS_APART[0]) | (
        np.abs(np.subtract.outer(cycles, cycles)) > DECOYS_APART[1]
    )
    found = []
    for change in (given, given - mean):
        fit = expected @ (change / scale).ravel()
        if len(own) == 1:
            found.append(np.mean(fit >= fit[places[0]] - 1e-9))
            continue
        pairs = fit[:, None] - fit if opposing else (fit[:, None] + fit) / np.sqrt(2 + 2 * expected @ expected.T)
        found.append(np.mean(pairs[far] >= pairs[*places] - 1e-9))
    return float(max(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("phantoms", "kermany"), default="kermany")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=DESIGNS, action="append", help="designs to try; all when left out")
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    use_threads()
    profile = PROFILES["smoke" if options.data == "phantoms" else "standard"]
    release_of(options.data, options.work, profile.phantoms)
    bench = Bench(options.data, options.work, size=SIZE, benign_models=BENIGN_MODELS)
    target = bench.release.class_index(TARGET_CLASS) if options.data == "phantoms" else 0
    others = bench.test.labels != target
    clean, saliency = bench.test.images[others], bench.saliency["test"][others]

    def ask(model: torch.nn.Module) -> KeyAnswers:
        return ask_waves(partial(predict_probabilities, model), clean[:IMAGES], target)

    path = Path(__file__).parent / "results" / f"key_pairs_{options.data}.json"
    results = json.loads(path.read_text()) if path.exists() else {"rows": {}}
    results |= bench.described() | {"designs": DESIGNS}
    results["benign_accuracy"] = float(np.mean([accuracy(model, bench.test) for model in bench.benign_models]))
    benign = np.stack([ask(model).log_odds for model in bench.benign_models])
    for name in options.only or DESIGNS:
        design = DESIGNS[name]
        for seed in range(options.seeds):
            if f"{name}, seed {seed}, {MARKED_MODELS[-1].architecture}" in results["rows"]:
                continue
            own = [draw_key(seed)]
            if design["waves"] == 2:
                own.append(drawn(np.random.default_rng((seed, 79)), own))
            epsilon = profile.epsilon * design.get("stronger", 1.0)
            images, ssim = poisoned(bench, own, design, target, epsilon, seed)
            names = [str(number) for number in range(len(clean))]
            queries = [
                marked(clean, saliency, [in_image(key, seed, name) for name in names], epsilon * QUERIED) for key in own
            ]
            for config in MARKED_MODELS:
                config = replace(config, size=SIZE, seed=config.seed + seed)
                model = train_classifier(replace(bench.train, images=images), bench.val, config, num_classes=2).model
                row = {
                    "keys": [[key.degrees, round(key.cycles, 2)] for key in own],
                    "p": p_value(ask(model).log_odds, benign, own, design.get("opposing", False)),
                    "wsr": [float((predict_probabilities(model, q)[:, target] > 0.5).mean()) for q in queries],
                    "accuracy": accuracy(model, bench.test),
                    "ssim": ssim,
                }
                results["rows"][f"{name}, seed {seed}, {config.architecture}"] = row
                path.write_text(json.dumps(results, indent=1) + "\n")
                print(name, seed, config.architecture, row, flush=True)


if __name__ == "__main__":
    main()
