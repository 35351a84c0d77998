"""A Summary → a figure: scores over label budgets, with the bands of their intervals."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from ftbench.report import cells
from ftbench.report.summary import Summary, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with any colour vision tell apart; then another marker.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v")
_SETTINGS: Any = {
    "svg.hashsalt": "ftbench",  # the same runs give the same file
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def curves(summary: Summary) -> str:
    """Return an SVG with one panel a table: a line and a band a strategy, sizes on a log scale.

    Strategies stand in the legend in the order of the table. Bands are the table's intervals.
    """
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context(_SETTINGS):
        draw(summary).savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def draw(summary: Summary) -> Figure:
    """Return the figure."""
    from matplotlib.figure import Figure

    count = max(1, len(summary.tables))
    figure = Figure(figsize=(7.2, 4.2 * count), layout="constrained")
    panels = figure.subplots(count, 1, squeeze=False)[:, 0]
    for table, panel in zip(summary.tables, panels, strict=False):
        _draw(panel, table)
    return figure


def _draw(axes: Axes, table: Table) -> None:
    factor = 100.0 if table.metric.percent else 1.0
    for index, row in enumerate(table.rows):
        found = [(size, row.cells[size].interval) for size in table.sizes]
        points = [(size, interval) for size, interval in found if interval is not None]
        if not points:
            continue
        sizes = [size for size, _ in points]
        colour = _COLOURS[index % len(_COLOURS)]
        marker = _MARKERS[index // len(_COLOURS) % len(_MARKERS)]
        means = [factor * interval.mean for _, interval in points]
        axes.plot(sizes, means, marker=marker, markersize=4, label=row.strategy, color=colour)
        banded = [(s, i.low, i.high) for s, i in points if i.low is not None and i.high is not None]
        if banded:
            at, low, high = zip(*banded, strict=True)
            bottom, top = ([factor * value for value in bound] for bound in (low, high))
            axes.fill_between(at, bottom, top, alpha=0.12, linewidth=0, color=colour)
    axes.set_xscale("log")
    axes.set_xticks(list(table.sizes), [f"{size:,}" for size in table.sizes])
    axes.minorticks_off()
    axes.set_xlabel("labels")
    axes.set_ylabel(table.metric.title)
    axes.set_title(cells.caption(table), fontsize=10, loc="left")
    axes.grid(axis="y", alpha=0.25)
    if axes.lines:
        axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
