"""What a sweep has done and has to do: the runs of its grid against the stored records."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from ftbench import store
from ftbench.config import SweepSpec
from ftbench.errors import SpecError, did_you_mean
from ftbench.memory import making_many
from ftbench.plugins import Catalogue
from ftbench.records import STATUSES, RunRecord, RunSpec, Status, describe_run
from ftbench.run import resolve_device
from ftbench.store import NOTHING, Snapshot
from ftbench.sweep.grid import expand

DEFAULT_RETRY: tuple[Status, ...] = ("failed", "out-of-memory", "timeout", "crashed")
"""What a sweep tries again unasked. A diverged run is a result: it would diverge again."""


@dataclass(frozen=True)
class Shard:
    """Part ``number``, from 1, of ``count`` equal parts of a plan."""

    number: int
    count: int

    def of(self, runs: Sequence[RunSpec]) -> Sequence[RunSpec]:
        """Return every ``count``-th run: each part has runs of every strategy and size."""
        return runs[self.number - 1 :: self.count]

    def folder(self, out: Path) -> Path:
        """Return where the part's results go: a directory has one writer."""
        return out / f"shard-{self.number}-of-{self.count}"


def parse_shard(text: str) -> Shard:
    """Return what ``--shard i/n`` says; SpecError where that is none."""
    first, slash, second = text.partition("/")
    if slash and first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second):
        return Shard(int(first), int(second))
    raise SpecError(f"--shard: expected i/n with i from 1 to n, as 3/8, got '{text}'")


@dataclass(frozen=True)
class Plan:
    """All runs of a grid, those still to run in order, and the records they are held against."""

    runs: Sequence[RunSpec]
    pending: Sequence[RunSpec]
    done: Mapping[str, RunRecord] = field(default_factory=dict)  # by key, the latest attempts
    device_type: str = ""  # where the pending ones will run: cpu or cuda
    others: int = 0  # stored runs that are not of the grid
    held: Snapshot = NOTHING
    retry: tuple[Status, ...] = DEFAULT_RETRY
    shard: Shard | None = None  # where this is a part of a larger plan
    workers: int = 1  # runs that are in progress at a time
    warnings: Sequence[str] = ()  # what a reader of its table should know beforehand

    @property
    def records(self) -> Sequence[RunRecord]:
        """Every record of the directory, those of other grids included."""
        return self.held.records

    def against(self, records: Sequence[RunRecord]) -> Plan:
        """Return the plan of the same grid with other records."""
        plan = make_plan(self.runs, records, self.retry, device_type=self.device_type)
        return replace(
            plan,
            held=Snapshot(records),
            shard=self.shard,
            workers=self.workers,
            warnings=self.warnings,
        )

    def name(self, run: RunSpec | RunRecord) -> str:
        """Return a run's short name, with those of task, backbone and recipe that differ in it."""
        if isinstance(run, RunSpec):
            return run.describe(self._several)
        return describe_run(run.labels, run.identity["size"], run.identity["seed"], self._several)

    @functools.cached_property
    def _several(self) -> list[str]:
        found = []
        if len({run.task.label for run in self.runs}) > 1:
            found.append("task")
        if len({run.backbone.label for run in self.runs}) > 1:
            found.append("backbone")
        for kind in dict.fromkeys(kind for run in self.runs for kind in run.parts):
            if len({run.parts[kind].label for run in self.runs}) > 1:
                found.append(kind)
        return found


def plan_for(
    spec: SweepSpec,
    directory: Path | Snapshot,
    catalogue: Catalogue,
    retry: Iterable[Status] = DEFAULT_RETRY,
    shard: Shard | None = None,
    *,
    elsewhere: bool = False,
) -> Plan:
    """Return what a sweep of ``spec`` into a directory would do; nothing is written.

    ``elsewhere`` says that its runs go to other machines, whose devices are not known here.

    A directory's records are read once, or not at all where they are handed over. SpecError,
    PluginError or StoreError where the sweep could not start.
    """
    device = spec.device if elsewhere else resolve_device(spec.device)
    device_type = "" if device == "auto" else device.partition(":")[0]
    with making_many():
        runs: Sequence[RunSpec] = expand(spec, catalogue)
        runs = runs if shard is None else shard.of(runs)
        held = directory if isinstance(directory, Snapshot) else store.snapshot(directory)
        plan = make_plan(runs, held.records, retry, device_type=device_type)
    return replace(plan, held=held, shard=shard, warnings=_warnings(runs, catalogue))


def _warnings(runs: Sequence[RunSpec], catalogue: Catalogue) -> list[str]:
    """Return what is legitimate in a plan and may surprise."""
    names = {run.strategy.name for run in runs if run.recipe.get("patience") is not None}
    shared = [n for n in sorted(names) if catalogue.find("strategy", n).value.validates]
    if not shared:
        return []
    return [
        f"{' and '.join(shared)} and early stopping choose on the same validation rows, which "
        "favours the weights that stopping chose; leave recipe.patience out for a fair choice"
    ]


def make_plan(
    runs: Sequence[RunSpec],
    records: Sequence[RunRecord],
    retry: Iterable[Status] = DEFAULT_RETRY,
    *,
    device_type: str = "",
) -> Plan:
    """Return what is still to run: runs never tried, then those whose status is in ``retry``.

    Retries come last, so that a run that brings the process down does not keep the others waiting.
    """
    again = tuple(retry)
    latest = store.latest(records)
    done = {run.key: latest[run.key] for run in runs if run.key in latest}
    untried = [run for run in runs if run.key not in done]
    retried = [run for run in runs if run.key in done and done[run.key].status in again]
    return Plan(
        runs=runs,
        pending=[*untried, *retried],
        done=done,
        device_type=device_type,
        others=len(latest) - len(done),
        held=Snapshot(records),
        retry=again,
    )


def parse_statuses(text: str) -> tuple[Status, ...]:
    """Return the statuses of a comma list; ``none`` is the empty list."""
    names = (part.strip() for part in text.split(","))
    return _known_statuses(name for name in names if name and name != "none")


def check_statuses(statuses: Iterable[str] | str) -> tuple[Status, ...]:
    """Return the statuses to try again, of a comma list or one by one; SpecError for no status."""
    return parse_statuses(statuses) if isinstance(statuses, str) else _known_statuses(statuses)


def _known_statuses(names: Iterable[str]) -> tuple[Status, ...]:
    found, known = tuple(names), [status for status in STATUSES if status != "ok"]
    for name in found:
        if name not in known:
            raise SpecError(
                f"--retry: unknown status '{name}'{did_you_mean(name, known)} "
                f"(known: {', '.join(known)}, none)"
            )
    return cast("tuple[Status, ...]", found)


def describe(plan: Plan) -> str:
    """Return how much of a plan is done, left to do, and left alone after a failure."""
    statuses = Counter(record.status for record in plan.done.values())
    pending = {run.key for run in plan.pending}
    alone = Counter(
        record.status
        for key, record in plan.done.items()
        if record.status != "ok" and key not in pending
    )
    # The device is no part of a run's key, so a sweep goes on elsewhere; that must not be a secret.
    elsewhere = Counter(
        record.environment.get("device_type", "")
        for record in plan.done.values()
        if record.status == "ok" and plan.device_type
    )
    elsewhere.pop(plan.device_type, None)
    where = "".join(f", {count} of them on {device}" for device, count in elsewhere.items())
    which = f" (shard {plan.shard.number} of {plan.shard.count})" if plan.shard else ""
    parts = [f"{len(plan.runs)} runs{which}", f"{statuses['ok']} already done{where}"]
    parts += [
        f"{count} {status}, not tried again (--retry {status})" for status, count in alone.items()
    ]
    return ", ".join([*parts, f"{len(plan.pending)} to run"])
