"""A Summary → tables for the terminal that it is printed on."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from ftbench.report import cells
from ftbench.report.summary import Summary, Table


def terminal(summary: Summary) -> str:
    """Return the tables as this process's terminal shows them: its width, colours and letters."""
    out = _Written(sys.stdout.encoding or "utf-8")
    console = Console(file=out, force_terminal=sys.stdout.isatty())
    for renderable in renderables(summary, console):
        console.print(renderable)
    return out.getvalue()


class _Written(io.StringIO):
    """Text that is on its way to a stream of that encoding, whose letters rich asks for."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding


def renderables(summary: Summary, console: Console) -> Iterator[RenderableType]:
    """Yield each table and the notes under it.

    Where the console is too narrow, a table continues in blocks below, each with the names.
    """
    for table in summary.tables:
        columns = _columns(table)
        title = cells.caption(table)
        for block in _blocks(table, columns, console):
            yield _rich_table(title, table, block)
            title = "… continued"
        for note in cells.notes(table):
            yield Text(note, style="dim")


Column = tuple[str, Sequence[str | Text]]  # heading and cells


def _columns(table: Table) -> list[Column]:
    """Return the columns to the right of the names."""
    scores = [_score_cells(table, index) for index in range(len(table.rows))]
    costs = [cells.cost_cells(table, index) for index in range(len(table.rows))]
    rows = [[*s, *c] for s, c in zip(scores, costs, strict=True)]
    headings = cells.headings(table)[1:]
    return [(heading, [row[i] for row in rows]) for i, heading in enumerate(headings)]


def _blocks(table: Table, columns: Sequence[Column], console: Console) -> list[list[Column]]:
    """Return the columns in as few blocks as fit the console, one column a block at least."""
    blocks: list[list[Column]] = [[]]
    for column in columns:
        wider = _rich_table("", table, [*blocks[-1], column])
        if blocks[-1] and _natural_width(console, wider) > console.width:
            blocks.append([])
        blocks[-1].append(column)
    return blocks


def _natural_width(console: Console, table: RichTable) -> int:
    # Measured on an endless line, since a measurement never exceeds the width that it is given.
    return Measurement.get(console, console.options.update(width=10_000), table).maximum


def _rich_table(title: str, table: Table, columns: Sequence[Column]) -> RichTable:
    shown = RichTable(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    names = max((len(row.strategy) for row in table.rows), default=0)
    # A long name folds rather than pushing numbers out of sight.
    shown.add_column("strategy", overflow="fold", max_width=max(12, min(names, 24)))
    for heading, column in columns:
        width = max(len(words) for words in [*(str(cell) for cell in column), *heading.split()])
        shown.add_column(heading, justify="right", min_width=width)
    for index, row in enumerate(table.rows):
        shown.add_row(Text(row.strategy), *(column[index] for _, column in columns))
    return shown


def _score_cells(table: Table, index: int) -> list[str | Text]:
    found = (table.rows[index].cells[size] for size in table.sizes)
    return [
        Text(cells.cell(cell, table.metric), style="bold green" if cell.standing == "best" else "")
        for cell in found
    ]
