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
    return {"markdown": markdown, "csv": comma_separated}


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
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [
            "table",
            "strategy",
            "size",
            "metric",
            "mean",
            "low",
            "high",
            "seeds",
            "standing",
            "missing",
        ]
    )
    for table in summary.tables:
        for row in table.rows:
            for size, cell in row.cells.items():
                found = cell.interval
                values = [found.mean, found.low, found.high, found.count] if found else [None] * 4
                lost = "; ".join(f"{count} {status}" for status, count in cell.missing.items())
                writer.writerow(
                    [
                        table.title,
                        row.strategy,
                        size,
                        table.metric.name,
                        *values,
                        cell.standing,
                        lost,
                    ]
                )
    return out.getvalue()
