"""The built-in report formats: a Summary → text."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ftbench.hookspecs import hookimpl

if TYPE_CHECKING:
    from ftbench.report.summary import Summary, Table


@hookimpl
def ftbench_report_formats() -> Mapping[str, Callable[[Any], str]]:
    """Return the built-in formats."""
    return {"markdown": markdown, "csv": comma_separated, "comparisons": comparisons}


def markdown(summary: Summary) -> str:
    """Return a Markdown table for each table, with its caption above and its notes below."""
    return "\n\n".join(_markdown_table(table) for table in summary.tables) + "\n"


def _markdown_table(table: Table) -> str:
    from ftbench.report import text

    lines = [f"**{text.caption(table)}**", ""]
    headings = text.headings(table)
    lines.append("| " + " | ".join(headings) + " |")
    lines.append("|---|" + "---:|" * (len(headings) - 1))
    for index, row in enumerate(table.rows):
        cells = []
        for size in table.sizes:
            cell = text.cell(row.cells[size], table.metric)
            cells.append(f"**{cell}**" if row.cells[size].standing == "best" else cell)
        cells = [row.strategy, *cells, *text.cost_cells(table, index)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, "", *(f"{note}  " for note in text.notes(table))]).rstrip()


def comma_separated(summary: Summary) -> str:
    """Return one line a table, strategy and size: mean, interval, seeds and standing, unrounded."""
    names = ["table", "strategy", "size", "metric", "mean", "low", "high", "seeds", "standing"]
    lines: list[list[object]] = []
    for table in summary.tables:
        for row in table.rows:
            for size, cell in row.cells.items():
                i = cell.interval
                values = [i.mean, i.low, i.high, i.count] if i else [None, None, None, 0]
                lost = "; ".join(f"{count} {status}" for status, count in cell.missing.items())
                where = [table.title, row.strategy, size, table.metric.name]
                lines.append([*where, *values, cell.standing, lost])
    return _csv([*names, "missing"], lines)


def comparisons(summary: Summary) -> str:
    """Return one line a table, size and pair of strategies: the mean paired difference and p.

    p is Holm-corrected over the table; empty where too few seeds are shared.
    """
    names = ["table", "size", "metric", "first", "second", "difference", "seeds", "holm_p"]
    return _csv(
        names,
        [
            [t.title, size, t.metric.name, c.first, c.second, c.difference, c.seeds, c.p_value]
            for t in summary.tables
            for size, column in t.comparisons.items()
            for c in column
            if c.seeds
        ],
    )


def _csv(names: list[str], lines: list[list[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(lines)
    return out.getvalue()
