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
    """How long to measure one function: ``seconds``, but no fewer and no more turns than these."""

    seconds: float
    least_turns: int = 2
    most_turns: int = 40


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


class Timed:
    """A function, and how long its rounds took in each turn: ``calls`` that can be timed well."""

    def __init__(self, function: Callable[[], object], device: str) -> None:
        """Warm up, and find how many calls make a round and the ``round_seconds`` it takes."""
        self._function = function
        self._clock = time.perf_counter if device == "cpu" else synchronized_clock
        # Compilation, and the allocator's pools.
        for _ in range(2):
            function()
        self.calls = 1
        while (seconds := self._round()) < _ROUND_SECONDS[device]:
            self.calls *= 2
        self.round_seconds = seconds
        self.turns: list[list[float]] = []

    def begin_turn(self) -> None:
        """Make the untimed rounds of a turn."""
        for _ in range(_UNTIMED_ROUNDS):
            self._round()
        self.turns.append([])

    def __call__(self) -> None:
        """Make a timed round."""
        self.turns[-1].append(self._round() / self.calls)

    def seconds(self) -> float:
        """Return the median seconds of a call."""
        return statistics.median(itertools.chain.from_iterable(self.turns))

    def over(self, other: Timed) -> float:
        """Return how many times as long this takes as ``other``: the median over the turns."""
        return statistics.median(
            statistics.median(mine) / statistics.median(theirs)
            for mine, theirs in zip(self.turns, other.turns, strict=True)
        )

    def _round(self) -> float:
        start = self._clock()
        for _ in range(self.calls):
            self._function()
        return self._clock() - start


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

    With the rounds' times is recorded whose they are, how many ``calls`` each round made, and of
    each of those ``beside`` the median ``seconds`` of a call and how many ``times`` as long as
    that ``function`` takes.
    """
    own = Timed(function, case.device)
    others = {name: Timed(other, case.device) for name, other in beside.items()}

    def take_turns() -> None:
        """Before each round: where a turn begins, let the others have theirs."""
        if next(begun) % _TIMED_ROUNDS:
            return
        for other in others.values():
            other.begin_turn()
            for _ in range(_TIMED_ROUNDS):
                other()
        own.begin_turn()

    begun = itertools.count()
    round_seconds = sum(timed.round_seconds for timed in (own, *others.values()))
    turns = int(budget.seconds / (round_seconds * (_UNTIMED_ROUNDS + _TIMED_ROUNDS)))
    turns = min(max(turns, budget.least_turns), budget.most_turns)
    start, own_start = core_seconds(), time.process_time()
    benchmark.group = case.id
    benchmark.pedantic(own, setup=take_turns, rounds=turns * _TIMED_ROUNDS)
    end, own_end = core_seconds(), time.process_time()
    benchmark.extra_info.update(
        case=case.facts(),
        contender=contender,
        variant=variant,
        calls=own.calls,
        beside={
            name: {"seconds": other.seconds(), "times": own.over(other)}
            for name, other in others.items()
        },
    )
    if start and end:
        benchmark.extra_info.update(
            core_seconds=end[1] - start[1],
            core_seconds_of_others=max(0.0, end[0] - start[0] - (own_end - own_start)),
        )
