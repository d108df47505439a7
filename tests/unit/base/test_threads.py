import os
import random

import numpy as np
import pytest
import torch
from medmark.components.base import threads
from medmark.components.base.threads import (
    available_cores,
    choose_threads,
    choose_workers,
    mixed_precision,
    seed_everything,
    use_threads,
)


@pytest.mark.parametrize(("stated", "threads"), [("3", 3), ("", 1), ("0", 1), ("-2", 1), ("two", 1)])
def test_threads_are_those_that_the_environment_states(monkeypatch, stated, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", stated)
    assert choose_threads() == threads


def test_threads_do_not_follow_the_load(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    found = set()
    for load in (0.0, 1.0, 50.0):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, load, load))
        found.add(choose_threads())
    assert len(found) == 1


def test_the_number_reaches_torch_and_the_processes_started_from_here(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    try:
        assert use_threads() == torch.get_num_threads() == int(os.environ["OMP_NUM_THREADS"]) == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("cores", "each", "tasks", "workers"), [(4, 1, 20, 4), (4, 2, 20, 2), (4, 1, 3, 3), (1, 2, 9, 1), (64, 1, 20, 8)]
)
def test_workers_never_oversubscribe(monkeypatch, cores, each, tasks, workers):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(threads, "available_cores", lambda: cores)
    monkeypatch.setenv("OMP_NUM_THREADS", str(each))
    assert choose_workers(tasks) == workers


def test_one_worker_shares_a_gpu_with_nobody(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_workers(20) == 1


@pytest.mark.parametrize(
    ("quota", "cores"), [("200000 100000", 2), ("50000 100000", 1), ("max 100000", 6), ("nonsense", 6), (None, 6)]
)
def test_a_containers_quota_counts(monkeypatch, tmp_path, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    assert available_cores(tmp_path / "cpu.max") == cores


def test_seeding_repeats_every_source_of_randomness():
    def draw():
        seed_everything(7)
        return random.random(), np.random.rand(), torch.rand(1).item()

    assert draw() == draw()


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_only_where_the_processor_has_it(monkeypatch, native):
    monkeypatch.setattr(threads, "cpu_has_bf16", lambda: native)
    with mixed_precision(torch.device("cpu")):
        product = torch.rand(4, 4) @ torch.rand(4, 4)
    assert product.dtype == (torch.bfloat16 if native else torch.float32)
