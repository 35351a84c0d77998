"""Which number a table shows: a task's own scores, and what every run has besides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ftbench import columns
from ftbench.errors import SpecError, did_you_mean
from ftbench.metric import CLASSIFICATION, Metric

WALL_SECONDS, CPU_SECONDS = "train_seconds", "train_cpu_seconds"

SOURCE_KEPT = columns.metric("source_accuracy_after")
ANSWERS_KEPT = columns.metric("drift_agreement")
KEPT = {"source kept": SOURCE_KEPT, "source answers kept": ANSWERS_KEPT}
"""What tells of forgetting, by the heading of its column: the first that runs have is shown."""


def kept_heading(runs: pd.DataFrame) -> str:
    """Return the heading of what these runs tell of forgetting, the first where they tell none."""
    there = (
        h for h, metric in KEPT.items() if metric.name in runs and runs[metric.name].notna().any()
    )
    return next(there, next(iter(KEPT)))


def choose_metrics(frame: pd.DataFrame, name: str | None) -> dict[str, Metric]:
    """Return by task the metric of that name, where it is None the task's first.

    ``frame`` is one of ``load_results``. SpecError where no run has it.
    """
    known = {
        task: {m["name"]: _as_metric(m) for m in metrics}
        for task, metrics in frame.attrs.get("metrics", {}).items()
    }
    if name is not None:
        _require(frame, name, known)
    scores = frame.attrs.get("scores", ())
    return {task: _metric(name, known.get(task, {}), scores) for task in frame["task"].astype(str)}


def resolution(runs: pd.DataFrame, metric: Metric) -> float:
    """Return the step that a metric's values come in, 0 where it has none."""
    counts = row_counts(runs, metric.rows)
    return 1 / min(counts) if counts else 0.0


def row_counts(runs: pd.DataFrame, column: str) -> list[int]:
    """Return the different whole numbers from 1 in a column, sorted; [] where there is none."""
    if not column or column not in runs:
        return []
    counts = pd.to_numeric(runs[column], errors="coerce").dropna()
    return sorted({int(count) for count in counts[(counts >= 1) & (counts % 1 == 0)]})


def _as_metric(values: Mapping[str, Any]) -> Metric:
    """Return the metric that a record describes; what a later version adds is left out."""
    fields = Metric.__dataclass_fields__
    return Metric(**{name: value for name, value in values.items() if name in fields})


def _require(frame: pd.DataFrame, name: str, known: Mapping[str, Mapping[str, Metric]]) -> None:
    """Raise SpecError where ``name`` is no number that a run of the frame has."""
    numeric = [
        str(column)
        for column in frame.select_dtypes("number").columns
        if column not in ("size", "seed", "threads") and not str(column).startswith("recipe_")
    ]
    if name in numeric:
        return
    if any(name in metrics for metrics in known.values()) or name in _fallback_metrics():
        raise SpecError(f"no run here has the metric '{name}'; it has {', '.join(numeric)}")
    raise SpecError(
        f"unknown metric '{name}'{did_you_mean(name, numeric)} (known: {', '.join(numeric)})"
    )


def _metric(name: str | None, of_task: Mapping[str, Metric], scores: Mapping[str, Any]) -> Metric:
    """Return the metric of that name, by default the task's first."""
    if name is None:
        return next(iter(of_task.values()), CLASSIFICATION[0])
    # Of a column that nothing describes, the better direction is not known. Where it is no score
    # it counts something (parameters, steps, rows), and counts are not tested.
    unknown = Metric(name, name, higher_is_better=None, cost="" if name in scores else "counted")
    return of_task.get(name) or _fallback_metrics().get(name, unknown)


def _fallback_metrics() -> dict[str, Metric]:
    return {**{m.name: m for m in CLASSIFICATION}, **columns.metrics()}
