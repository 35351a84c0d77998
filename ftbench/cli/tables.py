"""``ftbench table``: records → a table on standard output."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ftbench.errors import PluginError, SpecError
from ftbench.plugins import Entry, load_catalogue
from ftbench.records import RunRecord
from ftbench.results import load_results

if TYPE_CHECKING:
    import pandas as pd

# Reports bring pandas along: what makes no table does not wait for it.


def choose_format(name: str | None) -> Entry:
    """Return the format to print in: the terminal's on one, Markdown in a pipe."""
    chosen = name or ("terminal" if sys.stdout.isatty() else "markdown")
    return load_catalogue(kinds=["format"]).find("format", chosen)


def show(directory: Path, *, format_name: str | None = None, metric: str | None = None) -> None:
    """Print the table of a directory: for a terminal, in Markdown in a pipe, or as asked for."""
    # Before the records are read, so that a misspelt format is known at once.
    entry = choose_format(format_name)
    _print(load_results(directory), entry, metric)


def show_records(records: Iterable[RunRecord]) -> None:
    """Print the table of records: for a terminal, or in Markdown in a pipe."""
    from ftbench.report.frame import to_frame

    _print(to_frame(records), choose_format(None))


def _print(frame: pd.DataFrame, entry: Entry, metric: str | None = None) -> None:
    from ftbench.report.tables import summarize

    summary = summarize(frame, metric)
    whose = f"the format '{entry.name}' of {entry.owner}"
    try:
        written = entry.value.render(summary)
    except Exception as error:
        raise PluginError(f"{whose} raised {type(error).__name__}: {error}") from error
    if isinstance(written, str):
        sys.stdout.write(written)
    elif isinstance(written, bytes):
        _write_bytes(written, entry)
    else:
        raise PluginError(f"{whose} returned {type(written).__name__}, not str or bytes")


def _write_bytes(written: bytes, entry: Entry) -> None:
    if sys.stdout.isatty():
        raise SpecError(
            f"the format '{entry.name}' is no text; send it into a file: "
            f"ftbench table --format {entry.name} > table{entry.value.suffix}"
        )
    sys.stdout.flush()
    sys.stdout.buffer.write(written)
