"""``ftbench table``: records → a table on standard output."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ftbench.errors import PluginError
from ftbench.plugins import Entry, load_catalogue
from ftbench.records import RunRecord
from ftbench.results import load_results

if TYPE_CHECKING:
    import pandas as pd

# Reports bring pandas along: what makes no table does not wait for it.


def choose_format(name: str | None) -> Entry | None:
    """Return the format to print in: Markdown in a pipe, None for rich on a terminal."""
    chosen = name or (None if sys.stdout.isatty() else "markdown")
    return None if chosen is None else load_catalogue().find("format", chosen)


def show(directory: Path, *, format_name: str | None = None, metric: str | None = None) -> None:
    """Print the table of a directory: for a terminal, in Markdown in a pipe, or as asked for."""
    # Before the records are read, so that a misspelt format is known at once.
    entry = choose_format(format_name)
    _print(load_results(directory), entry, metric)


def show_records(records: Iterable[RunRecord]) -> None:
    """Print the table of records: for a terminal, or in Markdown in a pipe."""
    from ftbench.report.frame import to_frame

    _print(to_frame(records), choose_format(None))


def _print(frame: pd.DataFrame, entry: Entry | None, metric: str | None = None) -> None:
    from ftbench.report.summary import summarize

    summary = summarize(frame, metric)
    if entry is None:
        from rich.console import Console

        from ftbench.report.console import renderables

        console = Console()
        for renderable in renderables(summary, console):
            console.print(renderable)
        return
    try:
        written = entry.value(summary)
    except Exception as error:
        raise PluginError(
            f"the format '{entry.name}' of {entry.owner} raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(written, str):
        raise PluginError(
            f"the format '{entry.name}' of {entry.owner} returned {type(written).__name__}, not str"
        )
    sys.stdout.write(written)
