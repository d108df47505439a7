"""Seconds per training step of each small network, in float32 and bfloat16.

    python benchmarks/training_speed.py [threads ...]

Writes ``benchmarks/results/training_speed.json``: forward and backward of 32 images, the fastest of five, channels-last.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from medmark.components.base.threads import cpu_has_bf16
from medmark.components.surrogate.networks import build
from torch.nn import functional as F

RESULT = Path(__file__).parent / "results" / "training_speed.json"
NETWORKS = (("small_cnn", 64), ("small_cnn", 128), ("small_cnn_wide", 128), ("resnet_tiny", 128), ("resnet18", 128),
            ("efficientnet_b0", 128))  # fmt: skip


def seconds_per_step(architecture: str, size: int, bfloat16: bool) -> float:
    """Fastest of five training steps after one to warm up."""
    model = build(architecture, num_classes=2, size=size, seed=0).train()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(32, 1, size, size, generator=generator).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 2, (32,), generator=generator)
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = model(images).float()
        F.cross_entropy(logits, labels).backward()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def main(threads: list[int]) -> None:
    results = []
    for count in threads:
        torch.set_num_threads(count)
        for architecture, size in NETWORKS:
            times = {kind: seconds_per_step(architecture, size, kind == "bfloat16") for kind in ("float32", "bfloat16")}
            rounded = {kind: round(value, 4) for kind, value in times.items()}
            results.append({"architecture": architecture, "size": size, "threads": count, **rounded})
            print(results[-1], flush=True)
    content = {"batch": 32, "native_bfloat16": cpu_has_bf16(), "torch": torch.__version__, "seconds_per_step": results}
    RESULT.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main([int(value) for value in sys.argv[1:]] or [1, 2])
