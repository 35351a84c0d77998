"""One run after the other, in this process."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from ftbench.executors.contract import Listener, Records, Work
from ftbench.records import RunSpec


class Serial:
    """Runs have the process and the device ``place`` to themselves, so they share nothing."""

    at_once = 1
    shares_device = False
    shares_process = False

    def __init__(self, place: str) -> None:
        self._place = place

    def map(self, runs: Iterable[RunSpec], work: Work, listener: Listener) -> Records:
        """Yield each run's record as it ends, in order; nothing runs before it is asked for."""
        for run in runs:
            listener.started(run)
            yield work(run, functools.partial(listener.stepped, run), self._place)
