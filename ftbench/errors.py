"""The errors that a user is meant to read: what is wrong, where, and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FtbenchError(Exception):
    """Base of every error whose message is written for the user; the CLI prints it bare."""


class SpecError(FtbenchError):
    """What was asked for cannot be: an unknown name, a wrong type, a size out of range."""


class PluginError(FtbenchError):
    """A plugin failed to load, or two plugins claim one name."""


class StoreError(FtbenchError):
    """A results directory cannot be read, written or locked."""


class WeightsError(FtbenchError):
    """A weights file is missing, damaged or does not fit the network."""


class DivergedError(FtbenchError):
    """Training met a loss, penalty or weight that is not finite."""


class RunTimeoutError(FtbenchError):
    """A run used up the seconds that its sweep allows."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known word, or ``""`` where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""
