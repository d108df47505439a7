"""Our BadNets, Blended and WaNet triggers beside those of BackdoorBox, pixel by pixel.

    python benchmarks/agree_with_backdoorbox.py CHECKOUT

CHECKOUT is a work tree of github.com/THUYimingLi/BackdoorBox; none of its code is part of medmark. Only the files with
the trigger functions are executed. Prints the largest absolute difference, on a scale of 0 to 255, over phantoms of 64
px, and writes ``results/agree_with_backdoorbox.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.baselines.triggers import (
    BLEND,
    GRID,
    STRENGTH,
    draw_patch,
    draw_pattern,
    stamp,
    warp,
    warp_grid,
)
from medmark.components.dataset.phantoms import draw_phantom

SIZE, IMAGES = 64, 20


def load(checkout: Path, name: str) -> dict:
    """The names that ``core/attacks/<name>.py`` defines.

    Its base module, which imports the whole toolbox, is replaced by what the triggers use of it.
    """
    path = checkout / "core" / "attacks" / f"{name}.py"
    if not path.is_file():
        raise MedmarkError(f"no such file: {path}; give the folder of a checkout of BackdoorBox")
    from torchvision.datasets import CIFAR10, MNIST, DatasetFolder

    base = types.ModuleType("their.base")
    vars(base).update(
        {"torch": torch, "Base": object, "DatasetFolder": DatasetFolder, "MNIST": MNIST, "CIFAR10": CIFAR10}
    )
    sys.modules |= {"their": types.ModuleType("their"), "their.base": base}
    namespace = {"__name__": f"their.{name}", "__package__": "their"}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    return namespace


def differences(checkout: Path) -> dict[str, float]:
    """Largest absolute difference by method, 0 to 255."""
    pixels = [draw_phantom(SIZE, sick=i % 2 == 1, body_seed=(0, i), image_seed=(1, i)) for i in range(IMAGES)]
    bytes_ = torch.from_numpy(np.stack(pixels))[:, None]  # (N, 1, S, S) uint8
    images = bytes_.float() / 255

    patch = draw_patch(SIZE, 0, 0)
    where = (stamp(torch.full((1, 1, SIZE, SIZE), 0.5), patch, "bottom right") != 0.5)[0].float()
    stamped = stamp(images, patch, "bottom right")
    their_patch = load(checkout, "BadNets")["AddDatasetFolderTrigger"]((stamped[0] * 255 * where).byte(), where)

    pattern = draw_pattern(SIZE, 0, 0)
    weight = torch.full((1, SIZE, SIZE), BLEND)
    their_blend = load(checkout, "Blended")["AddDatasetFolderTrigger"](pattern[None] * 255, weight)

    flow = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (1, 2, GRID, GRID))).float()
    identity = warp_grid(flow, SIZE, 0.0)
    noise = torch.nn.functional.interpolate(
        flow / flow.abs().mean(), size=(SIZE, SIZE), mode="bicubic", align_corners=True
    ).permute(0, 2, 3, 1)
    their_warp = load(checkout, "WaNet")["AddDatasetFolderTrigger"](identity, noise, s=STRENGTH * SIZE)

    pairs = {
        "badnets": (stamped * 255, [their_patch.add_trigger(x) for x in bytes_]),
        "blended": (((1 - BLEND) * images + BLEND * pattern) * 255, [their_blend.add_trigger(x) for x in bytes_]),
        "wanet": (
            warp(images, warp_grid(flow, SIZE, STRENGTH)) * 255,
            [255 * their_warp.add_trigger(x) for x in images],
        ),
    }
    return {
        name: float((ours - torch.stack([t.reshape(1, SIZE, SIZE).float() for t in theirs])).abs().max())
        for name, (ours, theirs) in pairs.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    options = parser.parse_args()
    found = differences(options.checkout)
    commit = subprocess.run(["git", "-C", options.checkout, "rev-parse", "HEAD"], capture_output=True, text=True)
    results = {
        "images": IMAGES,
        "size": SIZE,
        "commit": commit.stdout.strip() or None,
        "largest_difference_of_255": {name: round(value, 4) for name, value in found.items()},
        "note": "their BadNets and Blended cut to whole numbers, so that a difference below 1 is rounding",
    }
    path = Path(__file__).parent / "results" / "agree_with_backdoorbox.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results["largest_difference_of_255"]))


if __name__ == "__main__":
    main()
