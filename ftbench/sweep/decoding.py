"""Images are decoded before the first run starts, so that no run's clock waits for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ftbench.backbone import BackboneFamily
from ftbench.plugins import Catalogue
from ftbench.preprocessing import Preprocessing
from ftbench.records import RunSpec
from ftbench.task import Task


@dataclass(frozen=True)
class Undecoded:
    """Images of a task that a backbone wants and nobody has decoded yet."""

    task: str
    bytes: int
    decode: Callable[[], object]


def undecoded(runs: Iterable[RunSpec], catalogue: Catalogue) -> list[Undecoded]:
    """Return what has to be decoded for these runs."""
    found = []
    for run in _first_of_each(runs):
        pool: Any = catalogue.rebuild(Task, run.task).at_seed(run.seed).pool()
        wanted = catalogue.rebuild(BackboneFamily, run.backbone).preprocessing()
        missing = getattr(pool, "missing_bytes", None)
        if wanted is None or missing is None or not missing(wanted):
            continue
        found.append(Undecoded(run.task.label, missing(wanted), _decoder(pool, wanted)))
    return found


def _first_of_each(runs: Iterable[RunSpec]) -> list[RunSpec]:
    found: dict[tuple[str, str], RunSpec] = {}
    for run in runs:
        places = (str(run.task.identity()), str(run.backbone.identity()))
        found.setdefault(places, run)
    return list(found.values())


def _decoder(pool: Any, wanted: Preprocessing) -> Callable[[], object]:
    return lambda: pool.prepared(wanted)
