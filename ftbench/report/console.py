"""A Summary → rich tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from ftbench.report import text
from ftbench.report.summary import Summary, Table


def renderables(summary: Summary, console: Console) -> Iterator[RenderableType]:
    """Yield each table and the notes under it.

    Where the console is too narrow for a whole table, its costs stand in a second one.
    """
    for table in summary.tables:
        scores = [_score_cells(table, index) for index in range(len(table.rows))]
        costs = [text.cost_cells(table, index) for index in range(len(table.rows))]
        headings = text.headings(table)
        split = 1 + len(table.sizes)
        whole = _rich_table(
            text.caption(table),
            table,
            headings,
            [[*s, *c] for s, c in zip(scores, costs, strict=True)],
        )
        if _natural_width(console, whole) <= console.width:
            yield whole
        else:
            yield _rich_table(text.caption(table), table, headings[:split], scores)
            title = f"{table.title}: what was kept, and costs"
            yield _rich_table(title, table, [headings[0], *headings[split:]], costs)
        for note in text.notes(table):
            yield Text(note, style="dim")


def _natural_width(console: Console, table: RichTable) -> int:
    # Measured on an endless line, since a measurement never exceeds the width that it is given.
    return Measurement.get(console, console.options.update(width=10_000), table).maximum


def _rich_table(
    title: str, table: Table, headings: Sequence[str], rows: Sequence[Sequence[str | Text]]
) -> RichTable:
    shown = RichTable(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    names = max(len(row.strategy) for row in table.rows)
    # A long name folds rather than pushing numbers out of sight.
    shown.add_column(headings[0], overflow="fold", min_width=min(names, 24))
    for index, heading in enumerate(headings[1:]):
        width = max(len(words) for words in [*(str(c[index]) for c in rows), *heading.split()])
        shown.add_column(heading, justify="right", min_width=width)
    for row, cells in zip(table.rows, rows, strict=True):
        shown.add_row(Text(row.strategy), *cells)
    return shown


def _score_cells(table: Table, index: int) -> list[str | Text]:
    cells = (table.rows[index].cells[size] for size in table.sizes)
    return [
        Text(text.cell(cell, table.metric), style="bold green" if cell.standing == "best" else "")
        for cell in cells
    ]
