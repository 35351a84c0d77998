"""What an executor is given, what it tells, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Protocol

from ftbench.records import RunRecord, RunSpec, Status

OnStep = Callable[[int, int], None]
Records = Generator[RunRecord, None, None]
"""Records as runs end; closing it ends what is in progress."""


GRACE = 5.0
"""Seconds beyond its limit in which a run may end by itself before its process is ended."""


def out_of_time(seconds: float, limit: float | None) -> str:
    """Return the message of a run that was ended from outside."""
    return f"out of time: ended after {seconds:.0f} s, its limit is {limit:g}"


class Work(Protocol):
    """Makes a run's record. It is frozen and can be pickled, so that it can go to any process."""

    @property
    def timeout_seconds(self) -> float | None:
        """How long a run may take before whoever carries it out ends it."""

    def __call__(self, run: RunSpec, on_step: OnStep, place: str) -> RunRecord:
        """Return the record of ``run``, carried out on the device ``place``.

        ``on_step`` hears a step and how many there are.
        """

    def lost(self, run: RunSpec, place: str, status: Status, message: str) -> RunRecord:
        """Return the record of a run that was carried out on ``place`` and left none."""

    def spoils(self, record: RunRecord) -> bool:
        """Return whether the process that carried out this run is good for no other."""


class Listener(Protocol):
    """Hears of runs, several of which may be in progress, in the process of the driver."""

    def started(self, run: RunSpec) -> None:
        """``run`` begins."""

    def stepped(self, run: RunSpec, step: int, total_steps: int) -> None:
        """``run`` has taken ``step`` of its steps."""


class Executor(Protocol):
    """Carries out runs, and says what they share meanwhile."""

    at_once: int
    """How many runs are in progress at a time, at most."""
    shares_device: bool
    """Whether several runs are in progress on one device."""
    shares_process: bool
    """Whether several are in progress in one process, whose memory then tells of none of them."""

    def map(self, runs: Iterable[RunSpec], work: Work, listener: Listener) -> Records:
        """Yield each run's record as it ends; the listener hears of a run before it starts."""
