"""What every measurement shares: clock, rounds, the copy that sets the bound, what is recorded.

A machine's memory can be twice as fast in one second as in the next, with nothing else running on
it that it knows of. So whatever is compared takes turns of a few rounds: ours with a copy, a peer
with ours. A turn begins with untimed rounds, since a cache full of what another has still to write
back is no part of the work.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.cases import Case
from benchmarks.machine import core_seconds

# A GPU's round is so long that waiting for its end is under 1 % of it.
_ROUND_SECONDS = {"cpu": 0.0005, "cuda": 0.005}
_UNTIMED_ROUNDS, _TIMED_ROUNDS = 2, 5  # of a turn


@dataclass(frozen=True)
class Budget:
    """How long to measure one function: ``seconds``, but no fewer and no more rounds than these."""

    seconds: float = 1.5
    least_rounds: int = 5
    most_rounds: int = 101


def synchronized_clock() -> float:
    """Return the time in seconds once the GPU has finished: a round ends when its work has."""
    torch.cuda.synchronize()
    return time.perf_counter()


def copy_function(values: int, device: str) -> Callable[[], object]:
    """Return a copy of ``values`` float32 numbers into a kept buffer: 8 bytes a value."""
    source = torch.rand(values, device=device)
    # Written once, so that its pages exist.
    kept = torch.zeros_like(source)
    return lambda: kept.copy_(source)


@dataclass(frozen=True)
class Round:
    """As many calls of ``function`` as can be timed well."""

    function: Callable[[], object]
    calls: int

    def __call__(self) -> None:
        """Make the calls."""
        for _ in range(self.calls):
            self.function()

    def repeat(self, rounds: int) -> None:
        """Make the calls of several rounds."""
        for _ in range(rounds):
            self()


def measure(
    benchmark: Any,
    budget: Budget,
    case: Case,
    contender: str,
    variant: str,
    function: Callable[[], object],
    beside: Mapping[str, Callable[[], object]],
) -> None:
    """Time rounds of ``function``, in turns with everything ``beside`` it.

    Beside the rounds' times stand whose they are, how many ``calls`` each round made, and the
    median seconds of a call of each of those ``beside``.
    """
    clock = time.perf_counter if case.device == "cpu" else synchronized_clock
    own, own_seconds = _round(function, case.device)
    others, seconds = {}, own_seconds
    for name, other in beside.items():
        others[name], round_seconds = _round(other, case.device)
        seconds += round_seconds
    taken: dict[str, list[float]] = {name: [] for name in others}

    def take_turns() -> None:
        """Before each round: where a turn begins, let the others have theirs."""
        if next(begun) % _TIMED_ROUNDS:
            return
        for name, other in others.items():
            other.repeat(_UNTIMED_ROUNDS)
            for _ in range(_TIMED_ROUNDS):
                start = clock()
                other()
                taken[name].append((clock() - start) / other.calls)
        own.repeat(_UNTIMED_ROUNDS)

    begun = itertools.count()
    of_a_turn = seconds * (_UNTIMED_ROUNDS + _TIMED_ROUNDS) / _TIMED_ROUNDS
    rounds = min(max(int(budget.seconds / of_a_turn), budget.least_rounds), budget.most_rounds)
    start, own_start = core_seconds(), time.process_time()
    benchmark.group = case.id
    benchmark.pedantic(own, setup=take_turns, rounds=rounds)
    end, own_end = core_seconds(), time.process_time()
    benchmark.extra_info.update(
        case=case.facts(),
        contender=contender,
        variant=variant,
        calls=own.calls,
        beside={name: statistics.median(times) for name, times in taken.items()},
    )
    if start and end:
        benchmark.extra_info.update(
            core_seconds=end[1] - start[1],
            core_seconds_of_others=max(0.0, end[0] - start[0] - (own_end - own_start)),
        )


def _round(function: Callable[[], object], device: str) -> tuple[Round, float]:
    """Return a round of ``function`` that is long enough, and the seconds that it took."""
    clock = time.perf_counter if device == "cpu" else synchronized_clock
    # Warm-up: compilation, and the allocator's pools.
    for _ in range(2):
        function()
    calls = 1
    while True:
        made = Round(function, calls)
        start = clock()
        made()
        seconds = clock() - start
        if seconds >= _ROUND_SECONDS[device]:
            return made, seconds
        calls *= 2
