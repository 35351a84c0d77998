"""A Summary → Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from ftbench.report import cells
from ftbench.report.summary import Row, Summary, Table


def markdown(summary: Summary) -> str:
    """Return a Markdown table for each table, with its caption above and its notes below."""
    return "\n\n".join(_markdown_table(table) for table in summary.tables) + "\n"


def _markdown_table(table: Table) -> str:
    lines = [f"**{cells.caption(table)}**", ""]
    headings = cells.headings(table)
    lines.append("| " + " | ".join(headings) + " |")
    lines.append("|---|" + "---:|" * (len(headings) - 1))
    for index, row in enumerate(table.rows):
        shown = [row.strategy, *_scores(table, row), *cells.cost_cells(table, index)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in shown) + " |")
    return "\n".join([*lines, "", *(f"{note}  " for note in cells.notes(table))]).rstrip()


def _scores(table: Table, row: Row) -> Iterator[str]:
    for size in table.sizes:
        cell = cells.cell(row.cells[size], table.metric)
        yield f"**{cell}**" if row.cells[size].standing == "best" else cell
