"""A Summary → CSV, one line a pair of strategies."""

from __future__ import annotations

from ftbench.report.formats.csv import lines_of_csv
from ftbench.report.summary import Summary


def comparisons(summary: Summary) -> str:
    """Return one line a table, size and pair of strategies: the mean paired difference and p.

    p is Holm-corrected over the table; empty where too few seeds are shared.
    """
    names = ["table", "size", "metric", "first", "second", "difference", "seeds", "holm_p"]
    return lines_of_csv(
        names,
        [
            [t.title, size, t.metric.name, c.first, c.second, c.difference, c.seeds, c.p_value]
            for t in summary.tables
            for size, column in t.comparisons.items()
            for c in column
            if c.seeds
        ],
    )
