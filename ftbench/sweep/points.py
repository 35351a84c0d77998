"""What all runs of one setting and size have in common, made once for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ftbench.records import RunRecord, RunSpec

Value = TypeVar("Value")


class PerSetting(Generic[Value]):
    """Remembers what was made of a run for others that differ in nothing but their seed.

    The runs of a plan share their parts, and so do the records that were read of one directory:
    they are told apart by which objects these are, without a look into them.
    """

    def __init__(self, make: Callable[[RunSpec | RunRecord], Value]) -> None:
        """``make`` must not look at the seed, nor at what a run came to."""
        self._make = make
        # With the objects themselves, so that no other takes their place in memory.
        self._known: dict[tuple[Any, ...], tuple[tuple[Any, ...], Value]] = {}

    def __call__(self, run: RunSpec | RunRecord) -> Value:
        """Return what was made of a run of this setting and size."""
        parts, rest = _parts(run)
        key = (*map(id, parts), *rest)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = parts, self._make(run)
        return found[1]


def _parts(run: RunSpec | RunRecord) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return the objects that a run shares with others, and what tells it from the rest."""
    if isinstance(run, RunSpec):
        parts: tuple[Any, ...] = (run.task, run.backbone, run.strategy, run.recipe, run.parts)
        return parts, (run.size, run.threads, run.deterministic)
    of = run.identity
    parts = of["task"], of["backbone"], of["strategy"], of["recipe"]
    return parts, (of["size"], str(of["threads"]), str(of["deterministic"]), str(of["harness"]))
