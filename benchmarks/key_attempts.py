"""Which marks could carry a key: the rank of a secret pair of textures among all pairs, by design of the mark.

    python benchmarks/key_attempts.py --data kermany --size 128 --work WORK --only "as SSIM allows"

A public table has 25 cells: five frequencies by five directions, each direction with its mirror image. A key is an ordered pair of cells:
marked images of class 0 carry a wave of the first, those of class 1 a wave of the second, with a phase of their own. A network is trained on
them and asked about 60 test images, 30 of each class, with every cell; its log-odds, less the benign models' mean and in units of their
spread, rank the pair among all 600. Rows are kept as they come; writes ``results/key_attempts_<data>.json``:

- ``ranks``: of the pair (600 is worst) with questions of standard deviation 0.01, 0.02, 0.04 and 0.07;
- ``rank``: with questions of 0.05 that are the fainter the finer they are, as marks of equal SSIM are (interpolated between those four), and
  a spread that is no less than a quarter of the network's own deviation;
- ``wsr``: share of images of class 1 that the first cell turns into class 0, at each strength.
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
from marking import MARKED_MODELS, Bench
from medmark.components.base.threads import use_threads
from medmark.components.dataset.arrays import load_arrays
from medmark.components.surrogate.networks import Classifier
from medmark.components.surrogate.training import accuracy, predict_probabilities, train_classifier
from torch.nn import functional as F

CYCLES, DEGREES = (3.2, 4.2, 5.4, 7.0, 9.0), (0.0, 22.5, 45.0, 67.5, 90.0)
CELLS = [(cycles, degrees) for cycles in CYCLES for degrees in DEGREES]
KEYS = ((7, 18), (13, 6), (22, 11), (2, 14))  # two cells each; arbitrary, far from each other
STRENGTHS = (0.01, 0.02, 0.04, 0.07)
BENIGN_MODELS = 20
JUDGED_AT = 256  # pixels; SSIM of a coarse wave is higher in larger images
# share: of the training images; first: of these to class 0; hardened: largest change that makes the panel doubt an image's class
SETTINGS = {
    "as SSIM allows": {"share": 0.213, "ssim": 0.953},
    "hardened": {"share": 0.213, "ssim": 0.953, "hardened": 0.015},
    "in proportion, hardened": {"share": 0.213, "ssim": 0.953, "first": 0.36, "hardened": 0.015},
}


def wave(cell: int, phase: float, mirrored: bool, side: int) -> torch.Tensor:
    """One wave of a cell, of standard deviation 1, (side, side)."""
    axis = (torch.arange(side, dtype=torch.float32) + 0.5) / side
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    cycles, degrees = CELLS[cell]
    angle = math.radians(180 - degrees if mirrored else degrees)
    return math.sqrt(2) * torch.sin(2 * math.pi * cycles * (x * math.cos(angle) + y * math.sin(angle)) + phase)


def gate(saliency: torch.Tensor, side: int) -> torch.Tensor:
    """Where the wave goes, as marks are confined today."""
    return 0.3 + 0.7 * F.interpolate(saliency, size=(side, side), mode="bilinear", align_corners=False)


def hardest(bench: Bench, label: int, count: int) -> torch.Tensor:
    """The images of a class that the panel finds hardest."""
    of_class = np.flatnonzero(bench.train.labels.numpy() == label)
    sure = [predict_probabilities(model, bench.train.images[of_class])[:, label] for model in bench.panel]
    return torch.from_numpy(of_class[np.argsort(np.mean(sure, axis=0), kind="stable")[:count]])


def harden(panel: list[Classifier], images: torch.Tensor, label: int, bound: float) -> torch.Tensor:
    """Images that the panel takes less for their class: 15 steps of projected gradient ascent, shifted and blurred.

    The shifts are drawn anew in every run, so hardened rows do not repeat to the bit.
    """
    kernel = torch.exp(-(torch.arange(-3, 4).float() ** 2) / 2)
    kernel = kernel / kernel.sum()
    change, labels = torch.zeros_like(images), torch.full((len(images),), label)

    def shown(delta: torch.Tensor) -> torch.Tensor:
        padded = F.pad(delta, (3, 3, 3, 3), mode="reflect")
        return (images + F.conv2d(F.conv2d(padded, kernel[None, None, None]), kernel[None, None, :, None])).clamp(0, 1)

    for _ in range(15):
        change.requires_grad_(True)
        moved = torch.roll(shown(change), [int(v) for v in torch.randint(-3, 4, (2,))], (2, 3))
        loss = torch.stack([F.cross_entropy(model(moved), labels, reduction="sum") for model in panel]).sum()
        (gradient,) = torch.autograd.grad(loss, change)
        change = (change.detach() + bound / 5 * gradient.sign()).clamp(-bound, bound)
    return shown(change.detach())


def strengths(images: torch.Tensor, delta: torch.Tensor, wanted: float) -> torch.Tensor:
    """The strength at which each image has the SSIM, (N, 1, 1, 1)."""
    strength = torch.full((len(images), 1, 1, 1), 0.03)
    for _ in range(3):
        marked = (images + strength * delta).clamp(0, 1)
        alike = piq.ssim(marked, images, data_range=1.0, downsample=False, reduction="none")[:, None, None, None]
        strength = (strength * ((1 - wanted) / (1 - alike).clamp_min(1e-6)).sqrt()).clamp_max(0.2)
    return strength


def mark(bench: Bench, large: torch.Tensor, key: tuple[int, int], seed: int, setting: dict) -> torch.Tensor:
    """The training images, some of each class marked."""
    rng, images = np.random.default_rng(1000 + seed), bench.train.images.clone()
    total = 2 * round(setting["share"] * len(bench.train) / 2)
    first = round(total * setting.get("first", 0.5))
    for label, count in ((0, first), (1, total - first)):
        chosen = hardest(bench, label, count)
        drawn = [(key[label], rng.uniform(0, 2 * math.pi), rng.uniform() >= 0.5) for _ in range(count)]
        saliency = bench.saliency["train"][chosen]
        seen = large[chosen]
        small, at = (torch.stack([wave(*one, side) for one in drawn])[:, None] for side in (bench.size, seen.shape[-1]))
        strength = strengths(seen, gate(saliency, seen.shape[-1]) * at, setting["ssim"])
        base = bench.train.images[chosen]
        if "hardened" in setting:
            base = harden(bench.panel, base, label, setting["hardened"])
        marked = (base + strength * gate(saliency, bench.size) * small).clamp(0, 1)
        images[chosen] = (marked * 255).round() / 255
    return images


def ask(model: Classifier, bench: Bench) -> tuple[np.ndarray, np.ndarray]:
    """Mean log-odds of class 0 by strength and cell, (4, 25), and the share of class 1 that is taken for class 0, (4, 25)."""
    rng, labels = np.random.default_rng(5), bench.test.labels.numpy()
    asked = np.concatenate([rng.permutation(np.flatnonzero(labels == label))[:30] for label in (0, 1)])
    phases, mirrored = rng.uniform(0, 2 * math.pi, (len(CELLS), len(asked))), rng.random((len(CELLS), len(asked))) < 0.5
    odds, rates = np.zeros((len(STRENGTHS), len(CELLS))), np.zeros((len(STRENGTHS), len(CELLS)))
    for cell in range(len(CELLS)):
        waves = torch.stack([wave(cell, *one, bench.size) for one in zip(phases[cell], mirrored[cell], strict=True)])
        for row, strength in enumerate(STRENGTHS):
            p = predict_probabilities(model, (bench.test.images[asked] + strength * waves[:, None]).clamp(0, 1))
            logs = np.log(p.clip(1e-4, 1))
            odds[row, cell], rates[row, cell] = (logs[:, 0] - logs[:, 1]).mean(), (p[30:, 0] > 0.5).mean()
    return odds, rates


def fainter(odds: np.ndarray) -> np.ndarray:
    """Log-odds at 0.05 times a power of the cell's cycles, interpolated: (25,)."""
    wanted = [math.log(0.05 * (5.4 / cycles) ** 0.7) for cycles, _ in CELLS]
    return np.array([np.interp(w, np.log(STRENGTHS), odds[:, cell]) for cell, w in enumerate(wanted)])


def rank(scores: np.ndarray, benign: np.ndarray, key: tuple[int, int], own_share: float) -> int:
    """Pairs that do at least as well as the key, of 600."""
    deviation = scores - benign.mean(axis=0)
    own = own_share * np.sqrt(np.mean(deviation**2))
    calibrated = deviation / np.hypot(benign.std(axis=0, ddof=1), own)
    gaps = calibrated[:, None] - calibrated[None]
    return int((gaps[~np.eye(len(CELLS), dtype=bool)] >= gaps[key] - 1e-9).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="kermany", choices=("kermany", "nih"))
    parser.add_argument("--size", type=int, default=128, help="side in pixels")
    parser.add_argument("--only", choices=SETTINGS, help="one setting; all when left out")
    parser.add_argument("--keys", type=int, default=len(KEYS), help="how many of the keys")
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    use_threads()
    bench = Bench(options.data, options.work, size=options.size, benign_models=BENIGN_MODELS)
    large = load_arrays(bench.release, split="train", size=JUDGED_AT).images
    path = Path(__file__).parent / "results" / f"key_attempts_{options.data}.json"
    results = json.loads(path.read_text()) if path.exists() else {"rows": {}}
    results |= bench.described() | {"size": "of each row", "settings": SETTINGS}
    results.setdefault("benign_accuracy", {})[f"{options.size} px"] = float(
        np.mean([accuracy(model, bench.test) for model in bench.benign_models])
    )
    benign = np.array([ask(model, bench)[0] for model in bench.benign_models])
    faint = np.array([fainter(odds) for odds in benign])
    for name in [options.only] if options.only else SETTINGS:
        for seed, key in enumerate(KEYS[: options.keys]):
            if f"{name}, {options.size} px, key {seed}, {MARKED_MODELS[-1].architecture}" in results["rows"]:
                continue
            images = mark(bench, large, key, seed, SETTINGS[name])
            train = partial(train_classifier, replace(bench.train, images=images), bench.val, num_classes=2)
            for config in MARKED_MODELS:
                model = train(replace(config, size=bench.size, seed=config.seed + seed)).model
                odds, rates = ask(model, bench)
                row = {
                    "key": key,
                    "rank": rank(fainter(odds), faint, key, 0.25),
                    "ranks": [rank(odds[i], benign[:, i], key, 0.0) for i in range(len(STRENGTHS))],
                    "wsr": rates[:, key[0]].tolist(),
                    "accuracy": accuracy(model, bench.test),
                }
                results["rows"][f"{name}, {options.size} px, key {seed}, {config.architecture}"] = row
                path.write_text(json.dumps(results, indent=1) + "\n")
                print(name, seed, config.architecture, row["rank"], row["ranks"], flush=True)


if __name__ == "__main__":
    main()
