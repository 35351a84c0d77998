"""The tidy frame → a Summary: groups of runs that may be compared become tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from ftbench import columns, stats
from ftbench.errors import SpecError
from ftbench.metric import Metric
from ftbench.report.metrics import (
    CPU_SECONDS,
    KEPT,
    WALL_SECONDS,
    choose_metrics,
    kept_heading,
    resolution,
)
from ftbench.report.notes import Scores, notes_under
from ftbench.report.summary import Cell, Row, Standing, Summary, Table
from ftbench.stats import Comparison, Interval


def summarize(frame: pd.DataFrame, metric: str | None = None) -> Summary:
    """Return a table for each task, backbone and recipe in the frame of ``load_results``.

    ``metric`` is a score or cost column; by default each task's own first score. SpecError where
    no run has it.
    """
    groups = [group for _, group in frame.groupby("condition", sort=False)]
    chosen = choose_metrics(frame, metric)
    varying = _varying_settings(groups)
    return Summary([_table(g, chosen[str(g["task"].iloc[0])], varying) for g in groups])


def _varying_settings(groups: Sequence[pd.DataFrame]) -> list[str]:
    """Return the columns that tell the groups apart, to go into their titles."""
    names = [str(c) for c in groups[0] if str(c).startswith("recipe_")] if groups else []
    names += ["threads", "deterministic", "harness"]
    varying = [n for n in names if len({str(g[n].iloc[0]) for g in groups if n in g}) > 1]
    # Two tasks are told apart by their names, so what differs counts within one name.
    parts = [
        (part, column.name)
        for column in columns.of("components")
        if (part := column.name.partition("_")[0]) != "strategy"
    ]
    return varying + [
        name
        for part, name in parts
        if len({(str(g[part].iloc[0]), str(g[name].iloc[0])) for g in groups})
        > len({str(g[part].iloc[0]) for g in groups})
    ]


def _table(group: pd.DataFrame, metric: Metric, varying: Sequence[str]) -> Table:
    first = group.iloc[0]
    settings = [f"{name.removeprefix('recipe_')} = {_setting(name, first)}" for name in varying]
    group = group.assign(_row=_row_labels(group))
    scores = _scores(group, metric.name)
    by_size = _comparisons(group, metric, scores)
    comparable = group["device"][group["status"] == "ok"].nunique() <= 1
    if not comparable and metric.cost == "measured":
        raise SpecError(
            f"{metric.name} comes from several devices and cannot be compared; "
            "load_results() has the device of each run"
        )
    rows = [
        _row(str(label), group, metric, scores, by_size, comparable=comparable)
        for label in dict.fromkeys(group["_row"])
    ]
    before = group.get("source_accuracy_before", pd.Series(dtype=float)).dropna()
    return Table(
        title=", ".join([f"{first['task']} from {first['backbone']}", *settings]),
        metric=metric,
        sizes=list(scores),
        rows=sorted(rows, key=_order(metric, scores)),
        comparisons=by_size,
        source_accuracy_before=float(before.mean()) if len(before) else None,
        notes=notes_under(group, metric, scores, by_size, comparable=comparable),
        kept_heading=kept_heading(group),
    )


def _row(
    label: str,
    group: pd.DataFrame,
    metric: Metric,
    scores: Mapping[int, Scores],
    comparisons: Mapping[int, Sequence[Comparison]],
    *,
    comparable: bool,
) -> Row:
    columns = {size: group[group["size"] == size] for size in scores}
    cells = {
        size: _cell(runs, metric, scores[size], label, comparisons[size])
        for size, runs in columns.items()
    }
    largest = columns[max(columns)]
    runs = largest[largest["_row"] == label]
    parameters = _mean(runs, "trainable_parameters")
    return Row(
        strategy=label,
        cells=cells,
        source_kept=_kept(runs, KEPT[kept_heading(group)]),
        train_seconds=_mean(runs, WALL_SECONDS) if comparable else None,
        trainable_parameters=None if parameters is None else round(parameters),
        train_cpu_seconds=_mean(runs, CPU_SECONDS) if comparable else None,
    )


def _setting(name: str, first: pd.Series[Any]) -> str:
    """Return a setting for a title; pandas keeps None as NaN and a count beside one as a float."""
    value: object = first[name]
    if value is None or value != value:
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    return text if name.startswith("recipe_") else text[:12]  # of a hash


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


def _scores(group: pd.DataFrame, metric: str) -> dict[int, dict[str, dict[int, float]]]:
    """Return ok scores as ``[size][row][seed]``, sizes ascending."""
    scores: dict[int, dict[str, dict[int, float]]] = {
        int(size): {str(label): {} for label in dict.fromkeys(group["_row"])}
        for size in sorted(group["size"].unique())
    }
    if metric in group:
        ok = group[(group["status"] == "ok") & group[metric].notna()]
        for size, label, seed, value in zip(
            ok["size"], ok["_row"], ok["seed"], ok[metric], strict=True
        ):
            scores[int(size)][label][int(seed)] = float(value)
    return scores


def _comparisons(
    group: pd.DataFrame, metric: Metric, scores: Mapping[int, Scores]
) -> dict[int, list[Comparison]]:
    """Return the comparisons of each size's pairs; none of a cost."""
    if metric.cost:
        return {size: [] for size in scores}
    compared = stats.compare_all(
        {str(size): column for size, column in scores.items()},
        resolution=resolution(group, metric),
    )
    return {size: compared[str(size)] for size in scores}


def _cell(
    column_runs: pd.DataFrame,
    metric: Metric,
    column: Scores,
    label: str,
    comparisons: Sequence[Comparison],
) -> Cell:
    runs = column_runs[column_runs["_row"] == label]
    values = list(column[label].values())
    missing = _missing(column_runs, runs, values)
    if not values:
        return Cell(None, missing=missing)
    if metric.cost:
        mean = Interval(sum(values) / len(values), None, None, len(values))
        beside = _mean(runs, CPU_SECONDS) if metric.name == WALL_SECONDS else None
        spread = (min(values), max(values))
        return Cell(mean, missing=missing, spread=spread, cpu_seconds=beside)
    interval = stats.mean_interval(values, resolution=resolution(runs, metric))
    return Cell(interval, _standing(label, column, comparisons, metric), missing)


def _missing(
    column_runs: pd.DataFrame, runs: pd.DataFrame, values: Sequence[float]
) -> dict[str, int]:
    """Return how many of a column's seeds a cell lacks, by what became of them."""
    counts = runs["status"][runs["status"] != "ok"].value_counts()
    missing = {str(status): int(count) for status, count in counts.items()}
    absent = column_runs["seed"].nunique() - runs["seed"].nunique()
    if absent:
        missing["not run"] = absent
    # A row without any (scratch keeps no source) lacks nothing: the number is not for it.
    without = runs["seed"][runs["status"] == "ok"].nunique() - len(values)
    if values and without:
        missing["without value"] = without
    return missing


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


def _kept(runs: pd.DataFrame, kept: Metric) -> Interval | None:
    if kept.name not in runs:
        return None
    values = runs[kept.name][runs["status"] == "ok"].dropna()
    if not len(values):
        return None
    return stats.mean_interval(
        [float(value) for value in values], resolution=resolution(runs, kept)
    )


def _mean(runs: pd.DataFrame, column: str) -> float | None:
    if column not in runs:
        return None
    values = runs[column][runs["status"] == "ok"].dropna()
    mean = float(values.mean()) if len(values) else math.nan
    return mean if math.isfinite(mean) else None  # a sum may overflow


def _order(metric: Metric, scores: Mapping[int, Scores]) -> Callable[[Row], tuple[int, float]]:
    """Return a sort key: by the mean over the sizes, on shared seeds; rows without scores last."""
    shared = {size: _common_means(column) for size, column in scores.items()}
    sign = 1 if metric.higher_is_better is False else -1

    def key(row: Row) -> tuple[int, float]:
        own = {size: c.interval.mean for size, c in row.cells.items() if c.interval is not None}
        means = [shared[size].get(row.strategy, mean) for size, mean in own.items()]
        return (-len(means), sign * sum(means) / len(means) if means else 0.0)

    return key
