"""How many threads to use, and how to make training repeatable."""

from __future__ import annotations

import os
import random
from functools import cache
from pathlib import Path

import numpy as np
import torch


def choose_threads() -> int:
    """Threads that a process computes with: ``OMP_NUM_THREADS`` if that is set, else 1.

    The number must not follow the machine's load: sums in another order are other sums, so a run is repeatable only with
    the same number. One, because two OpenMP threads trained small_cnn 1.35 times as fast on idle cores (measured: 1.7 s
    an epoch against 2.3) and ten times slower beside another busy process; what can run side by side is given to
    processes instead, see :func:`choose_workers`.
    """
    stated = os.environ.get("OMP_NUM_THREADS", "")
    return int(stated) if stated.isdigit() and int(stated) > 0 else 1


def use_threads() -> int:
    """Sets torch's threads to :func:`choose_threads` and returns the number, also for the processes started from here."""
    threads = choose_threads()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    return threads


def choose_workers(tasks: int) -> int:
    """Processes that should share ``tasks`` independent computations: what the cores hold, at least 1, at most 8.

    One on a machine with a GPU, which a second process would only share.
    """
    if torch.cuda.is_available():
        return 1
    return max(1, min(tasks, 8, available_cores() // choose_threads()))  # 8: arbitrary, bounds the memory


def available_cores(quota: str | Path = "/sys/fs/cgroup/cpu.max") -> int:
    """Cores that this process may use, by affinity and by the container's quota (cgroup version 2)."""
    cores = len(os.sched_getaffinity(0))
    try:
        limit, period = Path(quota).read_text().split()
    except (OSError, ValueError):  # no such control group
        return cores
    return cores if limit == "max" else max(1, min(cores, int(limit) // int(period)))


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True


def device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@cache
def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 itself (AVX512-BF16 or AMX)."""
    try:
        with open("/proc/cpuinfo") as stream:
            flags = next((line for line in stream if line.startswith("flags")), "").split()
    except OSError:  # not Linux: fp32 is always right
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def mixed_precision(where: torch.device) -> torch.autocast:
    """Autocast to bfloat16 on a GPU and on processors that have it, a no-op elsewhere.

    Measured with AVX512-BF16 (benchmarks/results/training_speed.json): a training step of small_cnn or ResNet-18 takes
    about half the time, of EfficientNet-B0 no less.
    """
    return torch.autocast(where.type, torch.bfloat16, enabled=where.type == "cuda" or cpu_has_bf16())
