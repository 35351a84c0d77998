"""A sweep beside a plain loop over the same grid: ``python -m benchmarks.sweeps``.

Both are whole commands, each in a process of its own, one after the other, on all cores. The loop
is ``benchmarks.plain_loop``. What runs of a strategy take in a sweep is their seconds divided by
the workers that were busy at a time. ``--write`` keeps the table in benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch.utils.data import TensorDataset
from torch.utils.flop_counter import FlopCounterMode

import ftbench
from benchmarks.machine import default_name, describe, slug
from benchmarks.plain_loop import STRATEGIES, embedded
from benchmarks.table import aligned
from ftbench.sweep.places import cores

_RESULTS = Path(__file__).parent / "results"
_GROUPS = {
    "head-only": ("head-only",),
    "partial": ("partial",),
    "progressive": ("progressive",),
    "full, scratch and l2sp": ("full", "scratch", "l2sp"),
    "ewc": ("ewc",),
}
_RESUMES = 5


@dataclass
class Side:
    """What one of the two took: the command, and the runs of each strategy."""

    seconds: float = 0.0
    of: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    accuracies: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def sum(self, strategies: Sequence[str]) -> float:
        """Return the seconds of all runs of some strategies."""
        return sum(sum(self.of[name]) for name in strategies)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and keep the table where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweeps", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="of the embedded grid, the first ones")
    parser.add_argument("--sizes", default="20,50,100,400", help="of the embedded grid")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, for both")
    parser.add_argument("--workers", type=int, help="of the sweep; default: one a core or GPU")
    parser.add_argument("--write", action="store_true", help="keep the table in benchmarks/results")
    parser.add_argument("--name", help="of the table's file; default: the CPU's or GPU's model")
    options = parser.parse_args(arguments)
    usual = cores() if options.device == "cpu" else torch.cuda.device_count()
    workers = options.workers or usual
    grid = ["--sizes", options.sizes, "--device", options.device]
    loop = run_loop([*grid, "--seeds", str(options.seeds)])
    with tempfile.TemporaryDirectory() as folder:
        flags = [*grid, "--num-seeds", str(options.seeds), "--workers", str(workers)]
        sweep = run_sweep(flags, Path(folder))
        resumes = [time_resume(flags, Path(folder)) for _ in range(_RESUMES)]
    text = table(loop, sweep, resumes, workers, options.device)
    sys.stdout.write(text)
    if options.write:
        name = slug(options.name) if options.name else default_name(options.device)
        path = _RESULTS / f"{name}-sweeps.md"
        path.write_text(text, encoding="utf-8")
        sys.stderr.write(f"written: {path.relative_to(_RESULTS.parent.parent)}\n")
    return 0


def run_loop(flags: Sequence[str]) -> Side:
    """Return what the plain loop took."""
    found, began = Side(), time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.plain_loop", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            run = json.loads(line)
            found.of[run["strategy"]].append(run["seconds"])
            found.accuracies[run["strategy"]].append(run["accuracy"])
    found.seconds = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(process.returncode)
    return found


def run_sweep(flags: Sequence[str], folder: Path) -> Side:
    """Return what a sweep took, with nothing computed before."""
    found, began = Side(), time.perf_counter()
    _sweep(flags, folder)
    found.seconds = time.perf_counter() - began
    for _, run in ftbench.load_results(folder / "out").iterrows():
        found.of[run["strategy"]].append(run["run_seconds"])
        found.accuracies[run["strategy"]].append(run["accuracy"])
    return found


def time_resume(flags: Sequence[str], folder: Path) -> float:
    """Return the seconds of the same command where nothing is left to do."""
    began = time.perf_counter()
    _sweep(flags, folder)
    return time.perf_counter() - began


def _sweep(flags: Sequence[str], folder: Path) -> None:
    command = [sys.executable, "-m", "ftbench", "sweep", *flags, "--out", str(folder / "out")]
    environment = {**os.environ, "FTBENCH_CACHE": str(folder / "cache")}
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)


def table(loop: Side, sweep: Side, resumes: Sequence[float], workers: int, device: str) -> str:
    """Return both as Markdown, with the machine."""
    rows = [
        (
            "whole command",
            f"{loop.seconds:.0f} s",
            f"{sweep.seconds:.0f} s",
            f"{loop.seconds / sweep.seconds:.2f}×",
        )
    ]
    for name, strategies in _GROUPS.items():
        theirs, ours = loop.sum(strategies), sweep.sum(strategies) / workers
        if theirs:
            rows.append((f"its {name} runs", f"{theirs:.1f} s", f"{ours:.1f} s",
                         f"{theirs / ours:.2f}×"))  # fmt: skip
    notes = [
        f"- {sum(map(len, sweep.of.values()))} runs; the loop takes them one after the other on "
        f"all cores, the sweep {workers} at a time: seconds of its runs are divided by that",
        f"- the same command with nothing left to do: {statistics.median(resumes):.1f} s",
        f"- mean accuracy of the sweep less the loop's, in points: {_apart(loop, sweep)}",
    ]
    if device == "cpu":
        notes.append(f"- {_limit(loop, sweep, workers)}")
    notes += [f"- {name}: {line}" for name, line in describe(device)["lines"].items()]
    head = ("", "plain loop", "ftbench sweep", "the loop takes")
    return "\n".join([*aligned([head, *rows]), "", *notes]) + "\n"


def _apart(loop: Side, sweep: Side) -> str:
    """Return how far the mean accuracies of both are apart, strategy by strategy."""
    parts = []
    for name in STRATEGIES:
        theirs, ours = loop.accuracies[name], sweep.accuracies[name]
        if theirs and ours:
            parts.append(f"{name} {100 * (statistics.mean(ours) - statistics.mean(theirs)):+.1f}")
    return ", ".join(parts)


def _limit(loop: Side, sweep: Side, workers: int) -> str:
    """Return what no run of full fine-tuning can fall below on these cores: matrix peak."""
    flops, peak = run_flops(), workers * matrix_peak()
    least = flops / peak
    one = statistics.mean(sweep.of["full"]) / workers
    theirs = statistics.mean(loop.of["full"])
    return (
        f"a run of full takes {flops / 1e9:.0f} GFLOP, evaluations included, and the cores "
        f"multiply float32 matrices at {peak / 1e9:.0f} GFLOP/s together: {least:.2f} s at least, "
        f"{theirs / least:.2f}× the loop; the sweep takes {one:.2f} s of all cores, "
        f"{least / one:.0%} of that peak"
    )


def run_flops() -> float:
    """Return the floating-point operations of one run of full on the embedded benchmark."""
    setup = embedded()
    stages, _ = setup.build(True)
    model = torch.nn.Sequential(*stages, torch.nn.Linear(setup.features, setup.classes))
    with FlopCounterMode(display=False) as training:
        model(torch.zeros(setup.batch_size, 1, 32, 32)).sum().backward()
    with FlopCounterMode(display=False) as predicting, torch.no_grad():
        model(torch.zeros(1, 1, 32, 32))
    rows = sum(len(cast(TensorDataset, part)) for part in (setup.test, setup.held_out))
    steps = setup.steps * training.get_total_flops()
    return float(steps + rows * predicting.get_total_flops())


def matrix_peak() -> float:
    """Return the floating-point operations a second of one thread in a large matrix product."""
    torch.set_num_threads(1)
    side = 1024
    first, second = torch.randn(side, side), torch.randn(side, side)
    taken = math.inf
    for _ in range(10):
        began = time.perf_counter()
        first @ second
        taken = min(taken, time.perf_counter() - began)
    return 2 * side**3 / taken


if __name__ == "__main__":
    sys.exit(main())
