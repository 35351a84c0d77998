"""The built-in report formats, one a file: a Summary → text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ftbench.hookspecs import hookimpl

if TYPE_CHECKING:
    from ftbench.format import Format


@hookimpl
def ftbench_report_formats() -> Mapping[str, Format]:
    """Return the built-in formats."""
    from ftbench.format import Format
    from ftbench.report.formats.comparisons import comparisons
    from ftbench.report.formats.csv import comma_separated
    from ftbench.report.formats.curves import curves
    from ftbench.report.formats.markdown import markdown
    from ftbench.report.formats.terminal import terminal

    return {
        "markdown": Format(markdown, ".md"),
        "csv": Format(comma_separated, ".csv"),
        "comparisons": Format(comparisons, ".csv"),
        "curves": Format(curves, ".svg"),
        "terminal": Format(terminal, ".txt"),
    }
