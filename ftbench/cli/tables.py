"""``ftbench table``: records → a table on standard output."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from ftbench.errors import PluginError
from ftbench.plugins import Entry, load_catalogue
from ftbench.records import RunRecord
from ftbench.report.console import renderables
from ftbench.report.frame import to_frame
from ftbench.report.summary import Summary, summarize
from ftbench.results import load_results


def choose_format(name: str | None) -> Entry | None:
    """Return the format to print in: Markdown in a pipe, None for rich on a terminal."""
    chosen = name or (None if sys.stdout.isatty() else "markdown")
    return None if chosen is None else load_catalogue().find("format", chosen)


def show(directory: Path, *, format_name: str | None = None, metric: str | None = None) -> None:
    """Print the table of a directory: for a terminal, in Markdown in a pipe, or as asked for."""
    # Before the records are read, so that a misspelt format is known at once.
    entry = choose_format(format_name)
    _print(summarize(load_results(directory), metric), entry)


def show_records(records: Iterable[RunRecord]) -> None:
    """Print the table of records: for a terminal, or in Markdown in a pipe."""
    _print(summarize(to_frame(records)), choose_format(None))


def _print(summary: Summary, entry: Entry | None) -> None:
    if entry is None:
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
