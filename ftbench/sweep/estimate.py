"""How long the pending runs of a plan should take."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ftbench.config import SweepSpec
from ftbench.plugins import Catalogue
from ftbench.recipe import Recipe
from ftbench.records import RunRecord, RunSpec
from ftbench.run import resolve_device, run_one
from ftbench.sweep.plan import Plan


def estimate_seconds(plan: Plan, records: list[RunRecord]) -> float | None:
    """Return the seconds that the pending runs should take, from finished ones; None: unknown.

    Each run counts as the mean of its strategy's finished runs on the same backbone with the same
    recipe, or else with the same batch size, their steps taken for its own.
    """
    same: dict[str, _Mean] = {}
    besides_steps: dict[str, _Mean] = {}
    of_a_step: dict[str, _Mean] = {}
    for record in records:
        if record.status != "ok":
            continue
        step = _number(record.costs.get("step_seconds"))
        besides = record.run_seconds - step * _number(record.protocol.get("steps"))
        group = _group(record.identity)
        same.setdefault(_group(record.identity, whole=True), _Mean()).add(record.run_seconds)
        besides_steps.setdefault(group, _Mean()).add(max(0.0, besides))
        of_a_step.setdefault(group, _Mean()).add(step)
    total = 0.0
    for run in plan.pending:
        identity = run.identity()
        whole, group = _group(identity, whole=True), _group(identity)
        if whole in same:
            total += same[whole].value
        elif group in of_a_step:
            steps = Recipe.model_validate(run.recipe).total_steps(run.size)
            total += besides_steps[group].value + steps * of_a_step[group].value
        else:
            return None
    return total if math.isfinite(total) else None


def _number(value: object) -> float:
    """Return a number of a record, 0 where it holds something else."""
    if isinstance(value, int | float) and abs(value) <= sys.float_info.max:
        return float(value)
    return 0.0


class _Mean:
    """A mean that is added to."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def add(self, value: float) -> None:
        """Take in a value."""
        self._sum += value
        self._count += 1

    @property
    def value(self) -> float:
        """The mean so far."""
        return self._sum / self._count


def probe_seconds(plan: Plan, spec: SweepSpec, catalogue: Catalogue) -> float:
    """Return the seconds that the pending runs should take, from short trials of each strategy.

    Each strategy trains for a few steps on the first run's rows, and nothing is stored.
    """
    steps, device = 6, resolve_device(spec.device)
    seconds: dict[str, float] = {}
    by_strategy: dict[str, RunSpec] = {}
    for run in plan.pending:
        by_strategy.setdefault(run.strategy.label, run)
    # Warm-up: the first run also loads the data.
    _probe(next(iter(by_strategy.values())), 1, catalogue, device)
    for label, run in by_strategy.items():
        record = _probe(run, steps, catalogue, device)
        per_step = float(record.costs.get("step_seconds") or 0.0)
        total = Recipe.model_validate(run.recipe).total_steps(run.size)
        seconds[label] = record.run_seconds + per_step * (total - steps)
    return sum(seconds[run.strategy.label] for run in plan.pending)


def _probe(run: RunSpec, steps: int, catalogue: Catalogue, device: str) -> RunRecord:
    recipe = {**run.recipe, "steps": steps, "epochs": None}
    return run_one(replace(run, recipe=recipe), catalogue, device=device)


def _group(identity: Mapping[str, Any], *, whole: bool = False) -> str:
    """Return what the runs share whose seconds tell of each other's."""
    recipe = identity["recipe"]
    shared = recipe if whole else recipe.get("batch_size")
    return str((identity["strategy"], shared, identity["backbone"]["name"]))
