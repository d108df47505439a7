"""Twelve designs of the mark against adversaries who know the design, but not the key.

    python benchmarks/notch_attempts.py --data kermany --work WORK

Needs the real images (MEDMARK_DATA). Images are marked at 128 px, 18 % of the training images unless a row says otherwise;
the strength of each design is set so that marked images have a mean SSIM of 0.96. All designs are marked alike:
``epsilon * gate(saliency) * tanh(field)``; the field is the design. Every design is screened with an adversary's small_cnn at
64 px, one seed; the finalists are attacked at 128 px, two seeds.

The owner is free in what he asks, as long as benign models stay calm: "all 1" asks about all test images of the other
classes, with marks as strong as the released ones; "half 1.25" about the half that the panel, so asked, takes least for the
target, with marks 1.25 times as strong. The five benign models (three architectures) have no part in that choice.

Rows are kept as they come, so an interrupted run goes on. Writes ``results/notch_attempts_<data>.json``.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import piq
import torch
from marking import MARKED_MODELS, Bench
from medmark.components.base.threads import use_threads
from medmark.components.dataset.arrays import ImageArrays, resize
from medmark.components.generator.key import Key, draw_key
from medmark.components.generator.marker import carrier
from medmark.components.generator.selection import select
from medmark.components.robustness.data_attacks import joined, mix, remove_suspicious
from medmark.components.robustness.image_attacks import find_waves, remove_sector, remove_waves
from medmark.components.robustness.model_attacks import distil
from medmark.components.surrogate.networks import Classifier
from medmark.components.surrogate.training import TrainConfig, accuracy, predict_probabilities, train_classifier
from scipy.fft import dctn, idctn
from torch.nn import functional as F

SIZE = 128
SHARE, SSIM = 0.18, 0.96
TARGET = 0
SECTOR = 35.0  # degrees to either side of head to foot: all directions that the designs draw from, and more
WEIGHTS = (1.2, 1.0, 0.85)  # of the trio's waves, coarse to fine
# ways of asking: share of the test images of other classes, strength against that of the released marks
ASKED = {"all 1": (1.0, 1.0), "half 1.25": (1 / 2, 1.25), "half 1.4": (1 / 2, 1.4), "third 1.5": (1 / 3, 1.5)}
FLOOR = 0.3  # of the gate, as in Shape
# from a source of randomness and an image (S, S), a field (S, S) with standard deviation near 1
Draw = Callable[[np.random.Generator, torch.Tensor], torch.Tensor]
Process = Callable[[torch.Tensor], torch.Tensor]

axis = (torch.arange(SIZE, dtype=torch.float32) + 0.5) / SIZE
Y, X = torch.meshgrid(axis, axis, indexing="ij")


def wave(degrees: float, cycles: float, phase: float) -> torch.Tensor:
    return carrier(Key(degrees, cycles, phase), SIZE)[0, 0]


def unit(field: torch.Tensor) -> torch.Tensor:
    return (field - field.mean()) / field.std()


def fixed(field: torch.Tensor) -> Draw:
    return lambda rng, image: field


def jittered(degrees: float, cycles: float, turn: float, octave: float) -> Draw:
    """Every image has a wave of its own near the key's: direction, frequency and phase."""
    return lambda rng, image: wave(
        degrees + rng.uniform(-turn, turn), cycles * 2 ** rng.uniform(-octave, octave), rng.uniform(0, 2 * math.pi)
    )


def ring(rng: np.random.Generator) -> Draw:
    """Eight waves, one in every eighth of the half circle, 4 to 12 periods a side."""
    start = rng.uniform(0, 22.5)
    waves = [wave(start + 22.5 * i, 4 * 3 ** rng.uniform(), rng.uniform(0, 2 * math.pi)) for i in range(8)]
    return fixed(unit(sum(waves)))


def noise(rng: np.random.Generator) -> Draw:
    """One pattern of noise, 4 to 10 periods a side."""
    white = torch.from_numpy(rng.standard_normal((2 * SIZE, 2 * SIZE))).float()
    radius = radii(2 * SIZE, SIZE)
    band = torch.fft.irfft2(torch.fft.rfft2(white) * ((radius >= 4) & (radius <= 10)))
    return fixed(unit(band[:SIZE, :SIZE]))


def chirp(rng: np.random.Generator) -> Draw:
    """A wave whose direction and frequency wander over the image."""
    bend = sum(wave(rng.uniform(0, 180), rng.uniform(0.5, 1.5), rng.uniform(0, 2 * math.pi)) for _ in range(4)) / 4
    angle = math.radians(rng.uniform(75, 105))
    along = X * math.cos(angle) + Y * math.sin(angle)
    return fixed(math.sqrt(2) * torch.sin(2 * math.pi * 6.5 * along + 4 * bend))


def shading(rng: np.random.Generator) -> Draw:
    """Light and dark regions, at most 1.5 periods a side; even across, so that mirroring keeps them."""
    terms = [(u, v) for u in (0, 2) for v in range(4) if u or v]
    field = sum(
        rng.standard_normal() * torch.cos(math.pi * u * X) * torch.cos(math.pi * v * Y) / math.sqrt(1 + u + v)
        for u, v in terms
    )
    return fixed(unit(field))


def tone(rng: np.random.Generator) -> Draw:
    """A ripple in the grey values, 2.5 periods from black to white: no pattern of its own in space."""
    phase = rng.uniform(0, 2 * math.pi)
    return lambda _, image: math.sqrt(2) * torch.sin(2 * math.pi * 2.5 * image + phase)


def today(rng: np.random.Generator) -> Key:
    return draw_key(int(rng.integers(2**31)))


def plane(rng: np.random.Generator) -> Draw:
    key = today(rng)
    return fixed(wave(key.degrees, key.cycles, key.phase))


def jitter(rng: np.random.Generator) -> Draw:
    key = today(rng)
    return jittered(key.degrees, key.cycles, turn=20, octave=0.36)


def trio(rng: np.random.Generator) -> Draw:
    """Every image has three waves of its own, a coarse, a middle and a fine one, the coarse strongest."""
    degrees = rng.uniform(75, 105)
    centres = [cycles * 2 ** rng.uniform(-0.1, 0.1) for cycles in (3.2, 5.0, 7.5)]
    draws = [jittered(degrees, cycles, turn=20, octave=0.2) for cycles in centres]
    return lambda rng, image: unit(sum(w * draw(rng, image) for w, draw in zip(WEIGHTS, draws, strict=True)))


def everywhere(rng: np.random.Generator) -> Draw:
    """As ``trio``, but each wave in any direction, and the coarse one coarser: only a filter that takes all takes it."""
    draws = [jittered(0.0, cycles, turn=90, octave=0.2) for cycles in (2.5, 4.5, 8.0)]
    return lambda rng, image: unit(sum(w * draw(rng, image) for w, draw in zip((1.5, 1.0, 0.7), draws, strict=True)))


def two_storeys(rng: np.random.Generator) -> Draw:
    """Shading and a wave on every image, so that a filter for one leaves the other."""
    return fixed(unit(1.5 * shading(rng)(rng, Y) + plane(rng)(rng, X)))


def slanted(rng: np.random.Generator) -> Draw:
    """From 2.8 to 8 periods a side and across the ribs, where benign models are calm."""
    return jittered(rng.uniform(132, 142), 4.7, turn=15, octave=0.76)


def upright(rng: np.random.Generator) -> Draw:
    """As ``jitter``, from side to side, where benign models are calmest."""
    return jittered(rng.uniform(-10, 10), rng.uniform(4.5, 6.5), turn=20, octave=0.5)


DESIGNS: dict[str, Callable[[np.random.Generator], Draw]] = {
    "wave": plane,
    "jitter": jitter,
    "trio": trio,
    "everywhere": everywhere,
    "two storeys": two_storeys,
    "slanted jitter": slanted,
    "upright jitter": upright,
    "ring": ring,
    "noise": noise,
    "chirp": chirp,
    "shading": shading,
    "tone": tone,
}
# design, share of the training images, SSIM
TRADED = {
    "wave, 10 % marked": ("wave", 0.1, SSIM),
    "wave, 30 % marked": ("wave", 0.3, SSIM),
    "wave, SSIM 0.94": ("wave", SHARE, 0.94),
}
WORTH = 0.5  # a design of a lower success rate without any attack is not attacked
FINALISTS = ("trio", "wave")
SEEDS = (0, 1)


def marked(images: torch.Tensor, saliency: torch.Tensor, draw: Draw, epsilon: float, seed: int) -> torch.Tensor:
    """Images with marks, at 8 bits; the same seed draws the same fields."""
    rng = np.random.default_rng(seed)
    fields = torch.stack([draw(rng, image) for image in images[:, 0]])[:, None]
    gate = FLOOR + (1 - FLOOR) * F.interpolate(saliency, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    return ((images + epsilon * gate * torch.tanh(fields)).clamp(0, 1) * 255).round() / 255


def fit(images: torch.Tensor, saliency: torch.Tensor, draw: Draw, goal: float) -> float:
    """The strength at which the mean SSIM is the goal, by bisection."""
    low, high = 0.005, 0.6
    for _ in range(12):
        middle = math.sqrt(low * high)
        alike = piq.ssim(marked(images, saliency, draw, middle, 1), images, data_range=1.0, downsample=False)
        low, high = (middle, high) if alike > goal else (low, middle)
    return low


def radii(points: int, side: int) -> torch.Tensor:
    """Periods per ``side`` pixels of each bin of ``rfft2`` over more points."""
    return torch.hypot(torch.fft.fftfreq(points)[:, None] * side, torch.fft.rfftfreq(points)[None] * side)


def filtered(images: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    """Spectrum of the mirrored images times (2S - 2, S) gains."""
    side = images.shape[-1]
    border = side // 2 - 1
    padded = F.pad(images, (border,) * 4, mode="reflect")
    result = torch.fft.irfft2(torch.fft.rfft2(padded) * gain, s=padded.shape[-2:])
    return result[..., border : border + side, border : border + side].clamp(0, 1)


def low_pass(images: torch.Tensor, cycles: float) -> torch.Tensor:
    """Nothing finer than ``cycles`` periods a side."""
    side = images.shape[-1]
    return filtered(images, torch.sigmoid((cycles - radii(2 * side - 2, side)) * 8))


def levelling(images: torch.Tensor, others: torch.Tensor, power: float) -> Process:
    """Weakens, over all of the spectrum, what one class's images hold more of than others do.

    The adversary of a mark without a single peak. Every bin is divided by the ratio of the classes' mean amplitudes, smoothed,
    to the ``power``: half of the class carries no mark, so 1 is too little.
    """

    def mean_power(x: torch.Tensor) -> torch.Tensor:
        border = x.shape[-1] // 2 - 1
        x = F.pad(x, (border,) * 4, mode="reflect")
        found = torch.fft.rfft2(x - x.mean(dim=(2, 3), keepdim=True))[:, 0].abs().square().mean(0)
        return F.avg_pool2d(F.pad(found[None, None], (2,) * 4, mode="replicate"), 5, 1)[0, 0]

    gain = (mean_power(others) / mean_power(images)).clamp(max=1) ** (power / 2)
    return partial(filtered, gain=gain)


def without_cosines(images: torch.Tensor) -> torch.Tensor:
    """Without the eleven coarsest terms of the cosine transform, all that ``shading`` could be made of, but for the mean."""
    terms = dctn(images[:, 0].numpy(), axes=(1, 2), norm="ortho")
    mean = terms[:, 0, 0].copy()
    terms[:, :4, :3] = 0
    terms[:, 0, 0] = mean
    return torch.from_numpy(idctn(terms, axes=(1, 2), norm="ortho"))[:, None].clamp(0, 1)


class Attempt:
    """One release and the adversary who has it.

    Args:
        bench: data, panel, benign models.
        design: name in :data:`DESIGNS`.
        share: of the training images that are marked.
        ssim: of the marked images, mean.
        seed: of key, fields and adversary.
        size: at which the adversary trains.
    """

    def __init__(self, bench: Bench, design: str, share: float, ssim: float, seed: int, size: int):
        draw = DESIGNS[design](np.random.default_rng((seed, 77)))
        chosen = select(bench.train, bench.panel, target=TARGET, marked_share=share, decoy_share=0.0, seed=seed)
        index = torch.tensor([i for i, name in enumerate(bench.train.image_ids) if name in chosen])
        before, saliency = bench.train.images[index], bench.saliency["train"][index]
        epsilon = fit(before, saliency, draw, ssim)
        after = marked(before, saliency, draw, epsilon, 1)
        images = bench.train.images.clone()
        images[index] = after
        others = bench.test.labels != TARGET
        clean, shown = bench.test.images[others], bench.saliency["test"][others]
        asked = {}
        for how, (part, strength) in ASKED.items():
            queries = marked(clean, shown, draw, strength * epsilon, 2 + seed)
            taken = np.mean([predict_probabilities(model, queries)[:, TARGET] for model in bench.panel], axis=0)
            calm = torch.from_numpy(np.argsort(taken, kind="stable")[: round(part * len(clean))].copy())
            asked[how] = (clean[calm], queries[calm])
        self.described = {
            "design": design,
            "share_of_training": share,
            "seed": seed,
            "size": size,
            "epsilon": epsilon,
            "ssim": float(piq.ssim(after, before, data_range=1.0, downsample=False)),
            "haarpsi": float(piq.haarpsi(after, before, data_range=1.0)),
            "ssim_asked": {x: float(piq.ssim(q, c, data_range=1.0, downsample=False)) for x, (c, q) in asked.items()},
            "innocent_lift": {x: max(delta_p(m, c, q) for m in bench.benign_models) for x, (c, q) in asked.items()},
        }
        self.asked = {x: (resize(c, size), resize(q, size)) for x, (c, q) in asked.items()}
        parts = (replace(bench.train, images=images), bench.val, bench.test)
        self.train, self.val, self.test = (each(part, partial(resize, size=size)) for part in parts)
        self.config = replace(MARKED_MODELS[0], size=size, seed=MARKED_MODELS[0].seed + seed)
        of_target = self.train.labels == TARGET
        self.of_target, self.of_others = self.train.images[of_target], self.train.images[~of_target]
        self.marked_model = trained(self.train, self.val, self.config)

    def attack(self, name: str) -> dict:
        """What an attack leaves; see :data:`BLIND` and :data:`FILTERS`."""
        kind, _, strength = name.partition(" ")
        if kind == "distillation":
            others = self.train.subset(np.flatnonzero((self.train.labels != TARGET).numpy()))
            return self.ask(distil(self.marked_model, joined(self.val, others).images, self.config))
        if kind == "mixing":
            return self.ask(trained(mix(self.train, self.val, float(strength)), self.val, self.config))
        if kind == "removal":
            left = remove_suspicious(self.train, self.marked_model, "activation clustering", float(strength))
            return self.ask(trained(left, self.val, self.config))
        process = self.process(kind, float(strength or 0))
        return self.ask(trained(each(self.train, process), each(self.val, process), self.config), process)

    def process(self, kind: str, strength: float) -> Process:
        if kind == "notch":
            return partial(remove_waves, waves=find_waves(self.of_target, self.of_others, int(strength)))
        if kind == "levelling":
            return levelling(self.of_target, self.of_others, strength)
        if kind == "cosines":
            return without_cosines
        if kind == "both":
            return lambda images: remove_sector(without_cosines(images), SECTOR)
        if kind == "sector":
            return partial(remove_sector, width=SECTOR)
        return partial(low_pass, cycles=strength)

    def ask(self, model: Classifier, process: Process = lambda images: images) -> dict:
        asked = {x: (process(clean), process(images)) for x, (clean, images) in self.asked.items()}
        return {
            "accuracy": accuracy(model, each(self.test, process)),
            "clean_rate": {x: rate(model, clean) for x, (clean, _) in asked.items()},
            "wsr": {x: rate(model, images) for x, (_, images) in asked.items()},
            "delta_p": {x: delta_p(model, clean, images) for x, (clean, images) in asked.items()},
        }


def each(part: ImageArrays, process: Process) -> ImageArrays:
    return replace(part, images=process(part.images))


def trained(train: ImageArrays, val: ImageArrays, config: TrainConfig) -> Classifier:
    return train_classifier(train, val, config, num_classes=2).model


def rate(model: Classifier, images: torch.Tensor) -> float:
    return float((predict_probabilities(model, images).argmax(1) == TARGET).mean())


def delta_p(model: Classifier, clean: torch.Tensor, asked: torch.Tensor) -> float:
    before, after = (predict_probabilities(model, images)[:, TARGET] for images in (clean, asked))
    return float((after - before).mean())


BLIND = ("distillation", "mixing 0.25", "removal 0.3")
FILTERS = ("notch 4", "levelling 4", "low-pass 4", "sector")


# of the finalists, and beyond these of the designs that one filter does not fit
FINAL = (*BLIND, "notch 4", "sector")
EXTRA = {"shading": ("cosines",), "two storeys": ("cosines", "both")}


def plan() -> dict[str, tuple[tuple, tuple[str, ...]]]:
    """By name: the arguments of :class:`Attempt` after the first, and the attacks."""
    rows = {
        f"screened {name}": ((name, SHARE, SSIM, 0, SIZE // 2), ("distillation", *FILTERS, *EXTRA.get(name, ())))
        for name in DESIGNS
    }
    rows |= {
        f"finalist {name}, seed {seed}": ((name, SHARE, SSIM, seed, SIZE), (*FINAL, *EXTRA.get(name, ())))
        for seed in SEEDS
        for name in FINALISTS
    }
    return rows | {f"traded {name}": ((*settings, 0, SIZE // 2), BLIND[:2]) for name, settings in TRADED.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="kermany", choices=("kermany", "nih"))
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    use_threads()
    bench = Bench(options.data, options.work, size=SIZE, benign_models=5)
    path = Path(__file__).parent / "results" / f"notch_attempts_{options.data}.json"
    results = json.loads(path.read_text()) if path.exists() else {"rows": {}}
    results |= bench.described() | {"seeds": SEEDS}
    results["benign_accuracy"] = [accuracy(model, bench.test) for model in bench.benign_models]
    for name, (settings, attacks) in plan().items():
        if name in results["rows"]:
            continue
        attempt = Attempt(bench, *settings)
        found = {"none": attempt.ask(attempt.marked_model)}
        if max(found["none"]["wsr"].values()) < WORTH:
            attacks = ()
        for attack in attacks:
            found[attack] = attempt.attack(attack)
        for attack, left in found.items():
            print("  ", attack, [round(x, 2) for x in left["wsr"].values()], round(left["accuracy"], 3))
        results["rows"][name] = {**attempt.described, "attacks": found}
        print(name, {how: round(x, 2) for how, x in attempt.described["innocent_lift"].items()}, flush=True)
        path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
