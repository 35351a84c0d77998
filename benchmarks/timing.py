"""What every measurement shares: clock, rounds, the copy that sets the bound, what is recorded."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.cases import Case
from benchmarks.machine import core_seconds
from benchmarks.memory import place

# A GPU's round is so long that waiting for its end is under 1 % of it.
_ROUND_SECONDS = {"cpu": 0.0005, "cuda": 0.005}


@dataclass(frozen=True)
class Budget:
    """How long to measure one function: ``seconds``, but no fewer and no more rounds than these."""

    seconds: float = 1.2
    least_rounds: int = 5
    most_rounds: int = 101


def synchronized_clock() -> float:
    """Return the time in seconds once the GPU has finished: a round ends when its work has."""
    torch.cuda.synchronize()
    return time.perf_counter()


def copy_function(values: int, device: str) -> Callable[[], object]:
    """Return a copy of ``values`` float32 numbers into a kept buffer: 8 bytes a value."""
    source = place(torch.rand(values, device=device), 0)
    kept = place(torch.zeros_like(source), 1)
    return lambda: kept.copy_(source)


def measure(
    benchmark: Any,
    budget: Budget,
    case: Case,
    contender: str,
    variant: str,
    function: Callable[[], object],
) -> None:
    """Time ``function`` and record beside its times whose it is."""
    benchmark.group = case.id
    benchmark.extra_info.update(case=case.facts(), contender=contender, variant=variant)
    # Warm-up: compilation, and the allocator's pools.
    for _ in range(2):
        function()
    calls, round_seconds = _calls_per_round(function, case.device)
    rounds = int(budget.seconds / round_seconds)
    start, own_start = core_seconds(), time.process_time()
    benchmark.pedantic(
        function,
        rounds=min(max(rounds, budget.least_rounds), budget.most_rounds),
        iterations=calls,
        warmup_rounds=1,
    )
    end, own_end = core_seconds(), time.process_time()
    if start and end:
        passed = end[1] - start[1]
        taken = max(0.0, end[0] - start[0] - (own_end - own_start))
        benchmark.extra_info.update(core_seconds=passed, core_seconds_of_others=taken)


def _calls_per_round(function: Callable[[], object], device: str) -> tuple[int, float]:
    """Return how many calls make a round that is long enough, and the seconds that they took."""
    clock = time.perf_counter if device == "cpu" else synchronized_clock
    calls = 1
    while True:
        start = clock()
        for _ in range(calls):
            function()
        seconds = clock() - start
        if seconds >= _ROUND_SECONDS[device]:
            return calls, seconds
        calls *= 2
