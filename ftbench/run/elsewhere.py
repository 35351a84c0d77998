"""Whether another machine can carry out a run as this one would: its code, data and weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ftbench.records import RunSpec
from ftbench.run.isolation import isolated_execution
from ftbench.run.prefixes import code, library
from ftbench.run.work import make_parts

_SAME = ("ftbench", "torch")  # of another version, scores would be other ones


def versions() -> dict[str, str]:
    """Return what has to be the same on each machine of a sweep."""
    return {**{name: library(name) for name in _SAME}, "ftbench's source": code()}


def lacks(work: Any, place: str, *, runs: Sequence[RunSpec], wanted: Mapping[str, str]) -> str:
    """Return why this machine cannot carry out runs like these, ``""`` where it can.

    ``work`` is the :class:`ftbench.run.RunWork` of a sweep, whose data and weights are looked for
    where its runs say; ``wanted`` are the versions of the machine that asks.
    """
    for name, version in versions().items():
        if version != wanted[name]:
            return f"{name} is {_short(version)} there and {_short(wanted[name])} here"
    if place != "cpu" and not torch.cuda.is_available():
        return "torch finds no GPU there"
    for run in runs:
        try:
            with isolated_execution(run, place):
                make_parts(run, work.catalogue, place)
        except Exception as error:  # whatever a plugin raises
            return f"{run.task.label} with {run.backbone.label}: {error}"
    return ""


def _short(version: str) -> str:
    return f"{version[:12]}…" if len(version) == 64 else version or "not installed"
