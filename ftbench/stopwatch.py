"""Seconds of a stretch of code, on the wall and on the processor."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Seconds:
    """What a stretch took; ``cpu`` adds up all threads of the process."""

    wall: float = 0.0
    cpu: float = 0.0

    def __add__(self, other: Seconds) -> Seconds:
        """Return the seconds of both stretches."""
        return Seconds(self.wall + other.wall, self.cpu + other.cpu)

    def __sub__(self, other: Seconds) -> Seconds:
        """Return the seconds of this stretch without another that is part of it."""
        return Seconds(self.wall - other.wall, self.cpu - other.cpu)


class Stopwatch:
    """Runs from its making."""

    def __init__(self) -> None:
        self._started = (time.perf_counter(), time.process_time())

    def read(self) -> Seconds:
        """Return what has passed so far."""
        wall, cpu = self._started
        return Seconds(time.perf_counter() - wall, time.process_time() - cpu)
