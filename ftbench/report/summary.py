"""The tidy frame → a Summary: per table, strategies × sizes with intervals and standings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

from ftbench import stats
from ftbench.errors import SpecError, did_you_mean
from ftbench.stats import Comparison, Interval
from ftbench.task import ClassificationTask, Metric

Standing = Literal["best", "tied", "behind", "undecided"]

# What every run may carry besides its task's own scores.
COMMON_METRICS = (
    Metric("source_accuracy_after", "source accuracy kept (%)", percent=True),
    Metric("train_seconds", "training (s)", higher_is_better=False),
    Metric("step_seconds", "one step (s)", higher_is_better=False),
    Metric("peak_memory_bytes", "peak memory (bytes)", higher_is_better=False),
)
TIMINGS = ("train_seconds", "step_seconds")


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


def summarize(
    frame: pd.DataFrame, metric: str | None = None, metrics: Sequence[Metric] = ()
) -> Summary:
    """Return a table for each task, backbone and recipe in the frame of ``load_results``.

    ``metric`` is a score or cost column; by default the first of ``metrics``, which installed tasks
    know, or else the first score, that a run has. SpecError where no run has it.
    """
    chosen = _metric(frame, metric, metrics)
    groups = [group for _, group in frame.groupby("condition", sort=False)]
    varying = _varying_settings(groups)
    return Summary([_table(group, chosen, varying) for group in groups])


def _metric(frame: pd.DataFrame, name: str | None, metrics: Sequence[Metric]) -> Metric:
    scores = (*metrics, *ClassificationTask.metrics)
    known = {m.name: m for m in (*scores, *COMMON_METRICS)}
    numeric = [
        str(c)
        for c in frame.select_dtypes("number").columns
        if c not in ("size", "seed", "threads") and not str(c).startswith("recipe_")
    ]
    if name is None:
        found = next((m for m in scores if m.name in frame), None)
        if found is None and (frame["status"] == "ok").any():
            # A task that is not installed here: scores come first among a frame's numbers.
            found = Metric(numeric[0], numeric[0])
        return found or ClassificationTask.metrics[0]
    if name not in frame:
        raise SpecError(
            f"unknown metric '{name}'{did_you_mean(name, [*numeric, *known])} "
            f"(known: {', '.join(dict.fromkeys([*known, *numeric]))})"
        )
    return known.get(name, Metric(name, name))


def _varying_settings(groups: Sequence[pd.DataFrame]) -> list[str]:
    """Return the columns that tell the groups apart, to go into their titles."""
    names = [str(c) for c in groups[0] if str(c).startswith("recipe_")] if groups else []
    names += ["threads", "deterministic", "task_version", "task_fingerprint"]
    names += ["backbone_version", "backbone_fingerprint"]
    return [n for n in names if len({str(g[n].iloc[0]) for g in groups if n in g}) > 1]


def _table(group: pd.DataFrame, metric: Metric, varying: Sequence[str]) -> Table:
    first = group.iloc[0]
    settings = [f"{name.removeprefix('recipe_')} = {_setting(first[name])}" for name in varying]
    sizes = sorted(int(size) for size in group["size"].unique())
    labels = _row_labels(group)
    scores = _scores(group, labels, metric.name)
    comparisons = stats.compare_all({str(size): scores[size] for size in sizes})
    by_size = {size: comparisons[str(size)] for size in sizes}
    timed = group["device"][group["status"] == "ok"].nunique() <= 1
    rows = [
        Row(
            strategy=label,
            cells={
                size: _cell(
                    group[(labels == label) & (group["size"] == size)],
                    metric,
                    scores[size],
                    label,
                    by_size[size],
                )
                for size in sizes
            },
            source_kept=_kept(group[(labels == label) & (group["size"] == sizes[-1])]),
            train_seconds=_mean(group, labels, label, sizes[-1], "train_seconds")
            if timed
            else None,
            trainable_parameters=_integer(
                _mean(group, labels, label, sizes[-1], "trainable_parameters")
            ),
        )
        for label in dict.fromkeys(labels)
    ]
    before = group.get("source_accuracy_before", pd.Series(dtype=float)).dropna()
    return Table(
        title=", ".join([f"{first['task']} from {first['backbone']}", *settings]),
        metric=metric,
        sizes=sizes,
        rows=sorted(rows, key=_by_score(metric, sizes)),
        comparisons=by_size,
        source_accuracy_before=float(before.mean()) if len(before) else None,
        notes=_notes(group, by_size, timed=timed, metric=metric),
    )


def _setting(value: object) -> str:
    """Return a setting for a title; pandas keeps None as NaN and a count beside one as a float."""
    if value is None or value != value:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)[:12]


def _row_labels(group: pd.DataFrame) -> pd.Series[str]:
    """Return each run's row name; two versions of one strategy are two rows."""
    labels: pd.Series[str] = group["strategy"].astype(str)
    versions = group.groupby("strategy")["strategy_version"].transform("nunique")
    labels = labels.where(versions == 1, labels + " v" + group["strategy_version"].astype(str))
    options = group["strategy_options"].groupby(labels).transform("nunique")
    return labels.where(options == 1, labels + " " + group["strategy_options"])


def _scores(
    group: pd.DataFrame, labels: pd.Series[str], metric: str
) -> dict[int, dict[str, dict[int, float]]]:
    """Return ok scores as ``[size][row][seed]``."""
    scores: dict[int, dict[str, dict[int, float]]] = {
        int(size): {label: {} for label in dict.fromkeys(labels)} for size in group["size"].unique()
    }
    if metric in group:
        ok = (group["status"] == "ok") & group[metric].notna()
        columns = (group["size"][ok], labels[ok], group["seed"][ok], group[metric][ok])
        for size, label, seed, value in zip(*columns, strict=True):
            scores[int(size)][label][int(seed)] = float(value)
    return scores


def _cell(
    runs: pd.DataFrame,
    metric: Metric,
    column: Mapping[str, Mapping[int, float]],
    label: str,
    comparisons: Sequence[Comparison],
) -> Cell:
    counts = runs["status"][runs["status"] != "ok"].value_counts()
    missing = {str(status): int(count) for status, count in counts.items()}
    values = list(column[label].values())
    if not values:
        return Cell(None, missing=missing)
    return Cell(stats.mean_interval(values), _standing(label, column, comparisons, metric), missing)


def _standing(
    label: str,
    column: Mapping[str, Mapping[int, float]],
    comparisons: Sequence[Comparison],
    metric: Metric,
) -> Standing:
    """Return where a strategy stands in its column against the one with the best mean.

    Best: distinguishable from every other. Tied: is, or cannot be told from, the one with the best
    mean. Undecided: a comparison that this needs has too few seeds.
    """
    sign = 1 if metric.higher_is_better else -1
    means = {name: sum(v.values()) / len(v) for name, v in column.items() if v}
    leader = max(means, key=lambda name: sign * means[name])
    if len(means) == 1:
        return "undecided"
    mine = [
        c
        for c in comparisons
        if leader in (c.first, c.second) and label in (c.first, c.second)
        and c.first in means and c.second in means
    ]  # fmt: skip
    if any(c.p_value is None for c in mine):
        return "undecided"
    if label != leader:
        return "behind" if all(c.distinguishable for c in mine) else "tied"
    return "best" if all(c.distinguishable for c in mine) else "tied"


def _kept(runs: pd.DataFrame) -> Interval | None:
    if "source_accuracy_after" not in runs:
        return None
    values = runs["source_accuracy_after"][runs["status"] == "ok"].dropna()
    return stats.mean_interval([float(v) for v in values]) if len(values) else None


def _mean(
    group: pd.DataFrame, labels: pd.Series[str], label: str, size: int, column: str
) -> float | None:
    if column not in group:
        return None
    chosen = (labels == label) & (group["size"] == size) & (group["status"] == "ok")
    values = group[column][chosen].dropna()
    return float(values.mean()) if len(values) else None


def _integer(value: float | None) -> int | None:
    return None if value is None else round(value)


def _by_score(metric: Metric, sizes: Sequence[int]) -> Callable[[Row], tuple[bool, float]]:
    """Return a sort key: best mean over the sizes first, rows without scores last."""

    def key(row: Row) -> tuple[bool, float]:
        means = [c.interval.mean for c in row.cells.values() if c.interval is not None]
        mean = sum(means) / len(means) if means else 0.0
        return (len(means) < len(sizes), -mean if metric.higher_is_better else mean)

    return key


def _notes(
    group: pd.DataFrame,
    comparisons: Mapping[int, Sequence[Comparison]],
    *,
    timed: bool,
    metric: Metric,
) -> list[str]:
    every = [c for column in comparisons.values() for c in column]
    tested = [c for c in every if c.p_value is not None]
    seeds = group["seed"].nunique()
    interval = f"Mean ± half the 95 % t-interval over {seeds} seeds."
    notes = [interval if seeds > 1 else "One seed, so there are no intervals."]
    if tested:
        notes.append(
            f"Paired t-tests on shared seeds, Holm-corrected over the table's {len(tested)} "
            "comparisons: bold is distinguishable from every other in its column at 5 %, "
            "≈ is not distinguishable from the best mean."
        )
    if len(tested) < len(every):
        notes.append(
            f"Too few seeds to compare: a pair needs {stats.MIN_PAIRED_SEEDS} shared seeds "
            "(--num-seeds 5)."
        )
    elif tested and not any(c.distinguishable for c in tested):
        notes.append("No difference is distinguishable yet; more seeds tell more (--num-seeds 10).")
    failed = group["status"][group["status"] != "ok"].value_counts()
    if len(failed):
        listing = ", ".join(f"{count} {status}" for status, count in failed.items())
        notes.append(f"Missing runs: {listing}; means are over the others.")
    notes += _environment_notes(group[group["status"] == "ok"])
    if not timed:
        notes.append("Timings come from several devices and are not compared.")
        if metric.name in TIMINGS:
            raise SpecError(
                f"{metric.name} comes from several devices and cannot be compared; "
                "load_results() has the device of each run"
            )
    return notes


def _environment_notes(group: pd.DataFrame) -> list[str]:
    notes = []
    for column, noun in (
        ("device", "devices"),
        ("env_ftbench", "ftbench versions"),
        ("env_torch", "torch versions"),
        ("env_commit", "commits"),
        ("strategy_owner", ""),
    ):
        if column == "strategy_owner":
            owners = group.groupby("strategy")[column].unique()
            notes += [
                f"Runs of {name} come from {' and '.join(sorted(found))}."
                for name, found in owners.items()
                if len(found) > 1
            ]
        elif group[column].nunique() > 1:
            listing = ", ".join(sorted(str(v) or "unknown" for v in group[column].unique()))
            notes.append(f"Runs come from several {noun}: {listing}.")
    return notes
