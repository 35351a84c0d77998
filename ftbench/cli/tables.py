"""``ftbench table``: records → a table on standard output."""

from __future__ import annotations

import sys
from pathlib import Path

from ftbench.plugins import load_catalogue
from ftbench.report.console import renderables
from ftbench.report.summary import summarize
from ftbench.results import load_results


def show(directory: Path, *, format_name: str | None = None, metric: str | None = None) -> None:
    """Print the table: rich on a terminal, Markdown in a pipe, or the format asked for."""
    # Before the records are read, so that a misspelt format is known at once.
    chosen = format_name or (None if sys.stdout.isatty() else "markdown")
    to_text = None if chosen is None else load_catalogue().find("format", chosen).value
    summary = summarize(load_results(directory), metric)
    if to_text is not None:
        sys.stdout.write(to_text(summary))
        return
    from rich.console import Console

    console = Console()
    for renderable in renderables(summary, console):
        console.print(renderable)
