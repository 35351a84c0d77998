"""Whoever waits for images to be looked at or decoded can hear how far that is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

Report = Callable[[str, int, int], None]
"""Hears what is done with images, to how many so far, and of how many."""

_LISTENER: ContextVar[Report | None] = ContextVar("images listener", default=None)


@contextlib.contextmanager
def reporting(listener: Report) -> Iterator[None]:
    """Tell ``listener`` of what is done inside."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def report(what: str, done: int, total: int) -> None:
    """Tell whoever listens."""
    listener = _LISTENER.get()
    if listener is not None:
        listener(what, done, total)
