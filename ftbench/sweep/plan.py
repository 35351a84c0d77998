"""What a sweep has done and has to do: the runs of its grid against the stored records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from ftbench import store
from ftbench.errors import SpecError, did_you_mean
from ftbench.records import STATUSES, RunRecord, RunSpec, Status

DEFAULT_RETRY: tuple[Status, ...] = ("failed", "out-of-memory", "timeout", "crashed")
"""What a sweep tries again unasked. A diverged run is a result: it would diverge again."""


@dataclass(frozen=True)
class Plan:
    """What a sweep will do: all runs of the grid, and those still to run, in order."""

    runs: Sequence[RunSpec]
    pending: Sequence[RunSpec]
    done: Mapping[str, RunRecord] = field(default_factory=dict)  # by key, the latest attempts
    device_type: str = ""  # where the pending ones will run: cpu or cuda
    others: int = 0  # stored runs that are not of the grid


def make_plan(
    runs: Sequence[RunSpec],
    records: list[RunRecord],
    retry: Iterable[Status] = DEFAULT_RETRY,
    *,
    device_type: str = "",
) -> Plan:
    """Return what is still to run: runs never tried, then those whose status is in ``retry``.

    Retries come last, so that a run that brings the process down does not keep the others waiting.
    """
    again = set(retry)
    latest = store.latest(records)
    done = {run.key: latest[run.key] for run in runs if run.key in latest}
    untried = [run for run in runs if run.key not in done]
    retried = [run for run in runs if run.key in done and done[run.key].status in again]
    return Plan(runs, [*untried, *retried], done, device_type, len(latest) - len(done))


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
    parts = [f"{len(plan.runs)} runs", f"{statuses['ok']} already done{where}"]
    parts += [
        f"{count} {status}, not tried again (--retry {status})" for status, count in alone.items()
    ]
    return ", ".join([*parts, f"{len(plan.pending)} to run"])
