"""Where runs are carried out: how many processes, and on which devices."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from ftbench.config import SweepSpec
from ftbench.errors import SpecError
from ftbench.executors import Cluster, Executor, OnRay, Serial, Workers
from ftbench.records import RunSpec
from ftbench.run import lacks, resolve_device, versions

WorkerCount = int | Literal["auto"]
_PRELOAD = ("ftbench.run", "ftbench.plugins")  # what every worker needs


def executor_for(
    spec: SweepSpec,
    pending: Sequence[RunSpec],
    workers: WorkerCount,
    *,
    runs_per_gpu: int = 1,
    cluster: Cluster | None = None,
) -> Executor:
    """Return what carries out the pending runs, in no more processes than there are runs."""
    if runs_per_gpu < 1:
        raise SpecError(f"runs per GPU: expected a number of at least 1, got {runs_per_gpu}")
    if cluster is not None and pending:
        return _on_ray(spec, pending, workers, replace(cluster, runs_per_gpu=runs_per_gpu))
    places = places_for(spec, workers, runs_per_gpu)[: max(1, len(pending))]
    if workers == 0 or (workers == "auto" and len(places) == 1 and places[0] == "cpu"):
        return Serial(places[0])
    return Workers(places, preload=_PRELOAD)


def _on_ray(
    spec: SweepSpec, pending: Sequence[RunSpec], workers: WorkerCount, cluster: Cluster
) -> Executor:
    if workers == 0:
        raise SpecError("--executor ray needs workers: auto or a number above 0")
    if ":" in spec.device:
        raise SpecError(f"--executor ray chooses the GPU itself: device cuda, not {spec.device}")
    # The nodes run code of their own: the same, or scores would not compare.
    pairs = {(run.task.label, run.backbone.label): run for run in reversed(pending)}
    asked = functools.partial(lacks, runs=tuple(pairs.values()), wanted=versions())
    asks = replace(cluster, threads=spec.threads, device=spec.device)
    return OnRay(asks, asked, at_most=None if workers == "auto" else workers)


def places_for(spec: SweepSpec, workers: WorkerCount, runs_per_gpu: int = 1) -> list[str]:
    """Return the device of each process.

    ``"auto"`` is ``runs_per_gpu`` processes on each GPU, or as many as the CPU has cores for, each
    of which runs ``spec.threads`` threads. Several GPUs are shared out evenly.
    """
    if workers != "auto" and workers < 0:
        raise SpecError(f"workers: expected auto or a number of at least 0, got {workers}")
    device = resolve_device(spec.device)
    if device == "cpu":
        count = max(1, cores() // spec.threads) if workers == "auto" else max(1, workers)
        return ["cpu"] * count
    every = spec.device in ("auto", "cuda")
    devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if every else [device]
    count = runs_per_gpu * len(devices) if workers == "auto" else max(1, workers)
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
