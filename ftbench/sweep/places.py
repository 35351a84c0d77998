"""Where runs are carried out: how many processes, and on which devices."""

from __future__ import annotations

import os
from typing import Literal

import torch

from ftbench.config import SweepSpec
from ftbench.errors import SpecError
from ftbench.executors import Executor, Serial, Workers
from ftbench.run import resolve_device

WorkerCount = int | Literal["auto"]
_PRELOAD = ("ftbench.run", "ftbench.plugins")  # what every worker needs


def executor_for(spec: SweepSpec, runs: int, workers: WorkerCount) -> Executor:
    """Return what carries out ``runs`` runs, in no more processes than that."""
    places = places_for(spec, workers)[: max(1, runs)]
    if workers == 0 or (workers == "auto" and len(places) == 1 and places[0] == "cpu"):
        return Serial(places[0])
    return Workers(places, preload=_PRELOAD)


def places_for(spec: SweepSpec, workers: WorkerCount) -> list[str]:
    """Return the device of each process.

    ``"auto"`` is one process on each GPU, or as many as the CPU has cores for, each of which runs
    ``spec.threads`` threads. Several GPUs are shared out evenly.
    """
    if workers != "auto" and workers < 0:
        raise SpecError(f"workers: expected auto or a number of at least 0, got {workers}")
    device = resolve_device(spec.device)
    if device == "cpu":
        count = max(1, cores() // spec.threads) if workers == "auto" else max(1, workers)
        return ["cpu"] * count
    every = spec.device in ("auto", "cuda")
    devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if every else [device]
    count = len(devices) if workers == "auto" else max(1, workers)
    return [devices[i % len(devices)] for i in range(count)]


def cores() -> int:
    """Return how many CPU cores this process may use: of its container, where that says."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(found or 1, _quota() or found or 1)


def _quota() -> int | None:
    """Return the CPU quota of the control group in whole cores, None without one."""
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            limit, period = file.read().split()
        return None if limit == "max" else max(1, int(limit) // int(period))
    except (OSError, ValueError):
        return None


def parse_workers(text: str) -> WorkerCount:
    """Return what ``--workers`` says; SpecError for other than auto or a number."""
    if text == "auto":
        return "auto"
    if text.isdecimal():
        return int(text)
    raise SpecError(f"--workers: expected auto or a number of at least 0, got '{text}'")
