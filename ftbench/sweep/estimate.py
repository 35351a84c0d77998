"""How long the pending runs of a plan should take."""

from __future__ import annotations

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

    Each run counts as the mean of its strategy's finished runs with the same recipe.
    """
    known: dict[str, list[float]] = {}
    for record in records:
        if record.status == "ok":
            known.setdefault(_estimate_group(record.identity), []).append(record.run_seconds)
    total = 0.0
    for run in plan.pending:
        seconds = known.get(_estimate_group(run.identity()))
        if not seconds:
            return None
        total += sum(seconds) / len(seconds)
    return total


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


def _estimate_group(identity: Mapping[str, Any]) -> str:
    return str((identity["strategy"], identity["recipe"], identity["backbone"]["name"]))
