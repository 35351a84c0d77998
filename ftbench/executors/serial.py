"""One run after the other, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ftbench.records import RunRecord, RunSpec


def run_serially(
    specs: Iterable[RunSpec],
    run: Callable[[RunSpec], RunRecord],
    *,
    on_start: Callable[[RunSpec], None],
) -> Iterator[RunRecord]:
    """Yield each run's record as it ends, in order; ``on_start`` is told before each."""
    for spec in specs:
        on_start(spec)
        yield run(spec)
