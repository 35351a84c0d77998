"""How a cell reads: the strings that every text format shares."""

from __future__ import annotations

from ftbench.metric import Metric
from ftbench.report.summary import Cell, Table
from ftbench.stats import Interval


def number(value: float, metric: Metric) -> str:
    """Return a score with the digits that its unit deserves."""
    if metric.percent:
        return f"{100 * value:.1f}"
    whole = metric.higher_is_better is None and float(value).is_integer()
    return f"{value:,.0f}" if whole or abs(value) >= 100 else f"{value:.3f}"


def interval(value: Interval | None, metric: Metric) -> str:
    """Return ``mean ± half width``; the mean alone for one seed; a dash for none."""
    if value is None:
        return "–"
    mean = number(value.mean, metric)
    return mean if value.half_width is None else f"{mean} ± {number(value.half_width, metric)}"


def missing(cell: Cell) -> str:
    """Return which runs are missing from a cell, ``""`` for none."""
    return ", ".join(f"{count} {status}" for status, count in cell.missing.items())


def cell(value: Cell, metric: Metric) -> str:
    """Return a cell without emphasis: interval or mean and spread, tie mark, missing runs."""
    lost = missing(value)
    if value.interval is None:
        return lost or "–"
    tie = " ≈" if value.standing == "tied" else ""
    beside = "" if value.cpu_seconds is None else f", CPU {value.cpu_seconds:.3f}"
    shown = f"{interval(value.interval, metric)}{_spread(value, metric)}{beside}{tie}"
    return shown + (f" ({lost})" if lost else "")


def _spread(value: Cell, metric: Metric) -> str:
    """Return `` [smallest, largest]`` of a cost, ``""`` where both are one number."""
    if value.spread is None or value.spread[0] == value.spread[1]:
        return ""
    return " [" + ", ".join(number(bound, metric) for bound in value.spread) + "]"


def headings(table: Table) -> list[str]:
    """Return the column titles of a table."""
    largest = table.sizes[-1]
    return [
        "strategy",
        *(str(size) for size in table.sizes),
        f"{table.kept_heading} at {largest}",
        f"train s at {largest}",
        *([f"CPU s at {largest}"] if _has_cpu_seconds(table) else []),
        "trainable",
    ]


def caption(table: Table) -> str:
    """Return what the table shows, in a line."""
    return f"{table.title}: {table.metric.title} by number of labels"


def notes(table: Table) -> list[str]:
    """Return the lines under a table."""
    before = table.source_accuracy_before
    source = (
        [] if before is None else [f"Source accuracy before fine-tuning: {100 * before:.1f} %."]
    )
    return [*table.notes, *source]


def _has_cpu_seconds(table: Table) -> bool:
    """Return whether a record has CPU seconds; those of old have none."""
    return any(row.train_cpu_seconds is not None for row in table.rows)


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def cost_cells(table: Table, index: int) -> list[str]:
    """Return the cells of row ``index`` to the right of its scores."""
    row = table.rows[index]
    return [
        interval(row.source_kept, table.kept_metric),
        _seconds(row.train_seconds),
        *([_seconds(row.train_cpu_seconds)] if _has_cpu_seconds(table) else []),
        "–" if row.trainable_parameters is None else f"{row.trainable_parameters:,}",
    ]
