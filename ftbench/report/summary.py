"""The tidy frame → a Summary: per table, strategies × sizes with intervals and standings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from ftbench import stats
from ftbench.errors import SpecError, did_you_mean
from ftbench.records import PART_COLUMNS
from ftbench.stats import Comparison, Interval
from ftbench.task import ClassificationTask, Metric

Standing = Literal["best", "tied", "behind", "undecided"]

# What every run may carry besides its task's own scores.
SOURCE_KEPT = Metric(
    "source_accuracy_after", "source accuracy kept (%)", percent=True, rows="source_rows"
)
COMMON_METRICS = (
    SOURCE_KEPT,
    Metric("train_seconds", "training (s)", higher_is_better=False),
    Metric("step_seconds", "one step (s)", higher_is_better=False),
    Metric("run_seconds", "whole run (s)", higher_is_better=False),
    Metric("peak_memory_bytes", "peak memory (bytes)", higher_is_better=False),
    Metric("final_loss", "last training loss", higher_is_better=False),
    Metric("validation_loss", "validation loss", higher_is_better=False),
)
# What depends on the device, or means another thing on another kind of device.
DEVICE_BOUND = (
    *("train_seconds", "step_seconds", "run_seconds", "seconds_saved_by_cache"),
    "peak_memory_bytes",
)


@dataclass(frozen=True)
class Cell:
    """One strategy at one size. ``interval`` is None where no run has ended well."""

    interval: Interval | None
    standing: Standing = "undecided"
    missing: Mapping[str, int] = field(default_factory=dict)  # runs that did not, by status


@dataclass(frozen=True)
class Row:
    """One strategy: its cells by size, and what it kept and cost at the largest size."""

    strategy: str
    cells: Mapping[int, Cell]
    source_kept: Interval | None
    train_seconds: float | None  # mean over seeds
    trainable_parameters: int | None


@dataclass(frozen=True)
class Table:
    """Runs that may be compared: one task, backbone and recipe."""

    title: str
    metric: Metric
    sizes: Sequence[int]
    rows: Sequence[Row]
    comparisons: Mapping[int, Sequence[Comparison]]  # by size, Holm-corrected over the table
    source_accuracy_before: float | None
    notes: Sequence[str]


@dataclass(frozen=True)
class Summary:
    """What a report format is given."""

    tables: Sequence[Table]


def summarize(frame: pd.DataFrame, metric: str | None = None) -> Summary:
    """Return a table for each task, backbone and recipe in the frame of ``load_results``.

    ``metric`` is a score or cost column; by default each task's own first score. SpecError where
    no run has it.
    """
    groups = [group for _, group in frame.groupby("condition", sort=False)]
    known = {
        task: {m["name"]: _as_metric(m) for m in metrics}
        for task, metrics in frame.attrs.get("metrics", {}).items()
    }
    if metric is not None:
        _require_metric(frame, metric, known)
    varying = _varying_settings(groups)
    return Summary(
        [_table(g, _metric(metric, known.get(str(g["task"].iloc[0]), {})), varying) for g in groups]
    )


def _as_metric(values: Mapping[str, Any]) -> Metric:
    """Return the metric that a record describes; what a later version adds is left out."""
    fields = Metric.__dataclass_fields__
    return Metric(**{name: value for name, value in values.items() if name in fields})


def _require_metric(
    frame: pd.DataFrame, name: str, known: Mapping[str, Mapping[str, Metric]]
) -> None:
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


def _metric(name: str | None, of_task: Mapping[str, Metric]) -> Metric:
    """Return the metric of that name, by default the task's first."""
    if name is None:
        return next(iter(of_task.values()), ClassificationTask.metrics[0])
    # Of a column that nothing describes, the better direction is not known.
    unknown = Metric(name, name, higher_is_better=None)
    return of_task.get(name) or _fallback_metrics().get(name, unknown)


def _fallback_metrics() -> dict[str, Metric]:
    return {m.name: m for m in (*ClassificationTask.metrics, *COMMON_METRICS)}


def _varying_settings(groups: Sequence[pd.DataFrame]) -> list[str]:
    """Return the columns that tell the groups apart, to go into their titles."""
    names = [str(c) for c in groups[0] if str(c).startswith("recipe_")] if groups else []
    names += ["threads", "deterministic", "harness"]
    names += [f"{part}_{of}" for part in ("task", "backbone") for of in PART_COLUMNS]
    return [n for n in names if len({str(g[n].iloc[0]) for g in groups if n in g}) > 1]


def _table(group: pd.DataFrame, metric: Metric, varying: Sequence[str]) -> Table:
    first = group.iloc[0]
    settings = [f"{name.removeprefix('recipe_')} = {_setting(first[name])}" for name in varying]
    sizes = sorted(int(size) for size in group["size"].unique())
    group = group.assign(_row=_row_labels(group))
    scores = _scores(group, metric.name)
    comparisons = stats.compare_all(
        {str(size): scores[size] for size in sizes}, resolution=_resolution(group, metric)
    )
    by_size = {size: comparisons[str(size)] for size in sizes}
    comparable = group["device"][group["status"] == "ok"].nunique() <= 1
    if not comparable and metric.name in DEVICE_BOUND:
        raise SpecError(
            f"{metric.name} comes from several devices and cannot be compared; "
            "load_results() has the device of each run"
        )
    rows = [
        Row(
            strategy=label,
            cells={
                size: _cell(
                    group[group["size"] == size], metric, scores[size], label, by_size[size]
                )
                for size in sizes
            },
            source_kept=_kept(runs[runs["size"] == sizes[-1]]),
            train_seconds=_mean(runs, sizes[-1], "train_seconds") if comparable else None,
            trainable_parameters=_integer(_mean(runs, sizes[-1], "trainable_parameters")),
        )
        for label, runs in ((str(label), runs) for label, runs in group.groupby("_row", sort=False))
    ]
    before = group.get("source_accuracy_before", pd.Series(dtype=float)).dropna()
    return Table(
        title=", ".join([f"{first['task']} from {first['backbone']}", *settings]),
        metric=metric,
        sizes=sizes,
        rows=sorted(rows, key=_order(metric, scores)),
        comparisons=by_size,
        source_accuracy_before=float(before.mean()) if len(before) else None,
        notes=_notes(group, metric, scores, by_size, comparable=comparable),
    )


def _resolution(group: pd.DataFrame, metric: Metric) -> float:
    """Return the step that a metric's values come in, 0 where it has none."""
    if not metric.rows or metric.rows not in group:
        return 0.0
    counts = group[metric.rows].dropna()
    counts = counts[counts > 0]
    return 1 / float(counts.min()) if len(counts) else 0.0


def _setting(value: object) -> str:
    """Return a setting for a title; pandas keeps None as NaN and a count beside one as a float."""
    if value is None or value != value:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)[:12]


def _row_labels(group: pd.DataFrame) -> pd.Series[str]:
    """Return each run's row name; what differs behind one label is told apart, not mixed."""
    labels: pd.Series[str] = group["strategy"].astype(str)
    for column, spelt in (
        ("strategy_owner", " of " + group["strategy_owner"].astype(str)),
        ("strategy_version", " v" + group["strategy_version"].astype(str)),
        ("strategy_options", " " + group["strategy_options"].astype(str)),
        ("strategy_source", " with code " + group["strategy_source"].astype(str).str[:8]),
    ):
        differing = group[column].groupby(labels).transform("nunique") > 1
        labels = labels.where(~differing, labels + spelt)
    return labels


Scores = Mapping[str, Mapping[int, float]]  # one column's, as [row][seed]


def _scores(group: pd.DataFrame, metric: str) -> dict[int, dict[str, dict[int, float]]]:
    """Return ok scores as ``[size][row][seed]``."""
    scores: dict[int, dict[str, dict[int, float]]] = {
        int(size): {str(label): {} for label in dict.fromkeys(group["_row"])}
        for size in group["size"].unique()
    }
    if metric in group:
        ok = group[(group["status"] == "ok") & group[metric].notna()]
        for size, label, seed, value in zip(
            ok["size"], ok["_row"], ok["seed"], ok[metric], strict=True
        ):
            scores[int(size)][label][int(seed)] = float(value)
    return scores


def _cell(
    column_runs: pd.DataFrame,
    metric: Metric,
    column: Scores,
    label: str,
    comparisons: Sequence[Comparison],
) -> Cell:
    runs = column_runs[column_runs["_row"] == label]
    counts = runs["status"][runs["status"] != "ok"].value_counts()
    missing = {str(status): int(count) for status, count in counts.items()}
    absent = column_runs["seed"].nunique() - runs["seed"].nunique()
    if absent:
        missing["not run"] = absent
    values = list(column[label].values())
    if not values:
        return Cell(None, missing=missing)
    interval = stats.mean_interval(values, resolution=_resolution(runs, metric))
    return Cell(interval, _standing(label, column, comparisons, metric), missing)


def _common_means(column: Scores) -> dict[str, float]:
    """Return each row's mean over the seeds that all rows with enough seeds share; {} for none.

    A row with fewer seeds than a comparison needs is left out: it must not decide for the others.
    """
    scored = {n: seeds for n, seeds in column.items() if len(seeds) >= stats.MIN_PAIRED_SEEDS}
    shared = set.intersection(*(set(seeds) for seeds in scored.values())) if scored else set()
    if not shared:
        return {}
    return {n: sum(v[seed] for seed in shared) / len(shared) for n, v in scored.items()}


def _standing(
    label: str, column: Scores, comparisons: Sequence[Comparison], metric: Metric
) -> Standing:
    """Return where a row stands in its column.

    The leader has the best mean on the seeds that all share. Best: the leader, where every paired
    difference favours it and is distinguishable. Behind: distinguishably worse than the leader.
    Tied: neither. Undecided: too few seeds, or no direction.
    """
    means = _common_means(column)
    if metric.higher_is_better is None or len(means) < 2 or label not in means:
        return "undecided"
    sign = 1 if metric.higher_is_better else -1
    leader = max(means, key=lambda name: sign * means[name])
    rivals = set(means) - {leader} if label == leader else {label}
    leads = []
    for c in comparisons:
        if leader in (c.first, c.second) and rivals & {c.first, c.second}:
            if c.p_value is None:
                return "undecided"
            ahead = sign * (c.difference if c.first == leader else -c.difference)
            leads.append(c.distinguishable and ahead > 0)
    if not all(leads):
        return "tied"
    return "best" if label == leader else "behind"


def _kept(runs: pd.DataFrame) -> Interval | None:
    if SOURCE_KEPT.name not in runs:
        return None
    values = runs[SOURCE_KEPT.name][runs["status"] == "ok"].dropna()
    if not len(values):
        return None
    return stats.mean_interval(
        [float(value) for value in values], resolution=_resolution(runs, SOURCE_KEPT)
    )


def _mean(runs: pd.DataFrame, size: int, column: str) -> float | None:
    if column not in runs:
        return None
    values = runs[column][(runs["size"] == size) & (runs["status"] == "ok")].dropna()
    return float(values.mean()) if len(values) else None


def _integer(value: float | None) -> int | None:
    return None if value is None else round(value)


def _order(metric: Metric, scores: Mapping[int, Scores]) -> Callable[[Row], tuple[int, float]]:
    """Return a sort key: by the mean over the sizes, on shared seeds; rows without scores last."""
    shared = {size: _common_means(column) for size, column in scores.items()}
    sign = 1 if metric.higher_is_better is False else -1

    def key(row: Row) -> tuple[int, float]:
        own = {size: c.interval.mean for size, c in row.cells.items() if c.interval is not None}
        means = [shared[size].get(row.strategy, mean) for size, mean in own.items()]
        return (-len(means), sign * sum(means) / len(means) if means else 0.0)

    return key


def _notes(
    group: pd.DataFrame,
    metric: Metric,
    scores: Mapping[int, Scores],
    comparisons: Mapping[int, Sequence[Comparison]],
    *,
    comparable: bool,
) -> list[str]:
    # A row without any score in a column (scratch keeps no source) is in no comparison of it.
    every = [
        c
        for size, column in comparisons.items()
        for c in column
        if scores[size][c.first] and scores[size][c.second]
    ]
    tested = [c for c in every if c.p_value is not None]
    seeds = group["seed"].nunique()
    notes = [
        f"Mean ± half the 95 % t-interval over {seeds} seeds."
        if seeds > 1
        else "One seed, so there are no intervals."
    ]
    if metric.higher_is_better is None:
        notes.append("No best is marked: whether higher or lower is better is not known.")
    elif tested:
        notes.append(
            f"Paired t-tests on shared seeds, Holm-corrected over the table's {len(tested)} "
            "comparisons: bold is distinguishable from every other in its column at 5 %, "
            "≈ is not distinguishably worse than the leader."
        )
        if len(tested) == len(every) and not any(c.distinguishable for c in tested):
            notes.append("No difference is distinguishable yet; more seeds tell more.")
    if len(tested) < len(every):
        notes.append(
            f"Too few seeds to compare {'some' if tested else 'any'} pairs: a pair needs "
            f"{stats.MIN_PAIRED_SEEDS} shared seeds (--num-seeds 5)."
        )
    failed = group["status"][group["status"] != "ok"].value_counts()
    if len(failed):
        listing = ", ".join(f"{count} {status}" for status, count in failed.items())
        notes.append(f"Missing runs: {listing}; means are over the others.")
    notes += _environment_notes(group[group["status"] == "ok"])
    if not comparable:
        notes.append("Timings come from several devices and are not compared.")
    return notes


def _environment_notes(ok: pd.DataFrame) -> list[str]:
    """Return a line for each thing about the environment in which the runs differ."""
    columns = ["device", *(str(c) for c in ok if str(c).startswith("env_"))]
    notes = []
    for column in columns:
        if column == "env_strategy_owner":
            for name, found in ok.groupby("strategy")[column].unique().items():
                if len(found) > 1:
                    notes.append(f"Runs of {name} come from {' and '.join(sorted(found))}.")
        elif ok[column].nunique() > 1:
            listing = ", ".join(sorted(str(v) or "unknown" for v in ok[column].unique()))
            noun = column.removeprefix("env_").replace("_", "-")
            notes.append(f"Runs differ in {noun}: {listing}.")
    return notes
