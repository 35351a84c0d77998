"""The errors that a user is meant to read: what is wrong, where, and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


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


def explain(
    error: ValidationError, known: Iterable[str], where: str, noun: str, prefix: str = ""
) -> str:
    """Return one readable line for a pydantic error: what is wrong, where, and what is right."""
    problems = []
    for item in error.errors():
        name = ".".join([*filter(None, [prefix]), *map(str, item["loc"])])
        if item["type"] == "extra_forbidden":
            names = sorted(known)
            listing = ", ".join(names) or "none"
            problems.append(
                f"unknown {noun} '{name}'{did_you_mean(name, names)} (known: {listing})"
            )
        else:
            wrong = item["msg"].removeprefix("Value error, ")
            subject = f"{noun} '{name}': " if name else ""
            problems.append(f"{subject}{wrong}, got {item['input']!r}")
    return f"{where}: " + "; ".join(problems)
