"""``ftbench table``: records → a table on standard output."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path

from rich.console import Console

from ftbench.errors import PluginError
from ftbench.plugins import Entry, load_catalogue
from ftbench.report.console import renderables
from ftbench.report.summary import summarize
from ftbench.results import load_results


def choose_format(name: str | None) -> Entry | None:
    """Return the format to print in: Markdown in a pipe, None for rich on a terminal."""
    chosen = name or (None if sys.stdout.isatty() else "markdown")
    return None if chosen is None else load_catalogue().find("format", chosen)


def show(
    directory: Path,
    *,
    format_name: str | None = None,
    metric: str | None = None,
    keys: Collection[str] | None = None,
) -> None:
    """Print the table: rich on a terminal, Markdown in a pipe, or the format asked for.

    Where ``keys`` are given, of those runs alone.
    """
    # Before the records are read, so that a misspelt format is known at once.
    entry = choose_format(format_name)
    results = load_results(directory)
    summary = summarize(results if keys is None else results[results["key"].isin(keys)], metric)
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
