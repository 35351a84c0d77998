"""A Summary → rich tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftbench.report import text
from ftbench.report.summary import Summary

if TYPE_CHECKING:
    from rich.console import RenderableType


def renderables(summary: Summary) -> Iterator[RenderableType]:
    """Yield each table and the notes under it."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    for table in summary.tables:
        shown = RichTable(title=text.caption(table), title_justify="left", box=box.SIMPLE_HEAD)
        for heading in text.headings(table):
            shown.add_column(heading, justify="left" if heading == "strategy" else "right")
        for index, row in enumerate(table.rows):
            cells = [
                Text(
                    text.cell(row.cells[size], table.metric),
                    style="bold green" if row.cells[size].standing == "best" else "",
                )
                for size in table.sizes
            ]
            shown.add_row(row.strategy, *cells, *text.cost_cells(table, index))
        yield shown
        for note in text.notes(table):
            yield Text(note, style="dim")
