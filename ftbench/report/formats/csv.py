"""A Summary → CSV, one line a cell."""

from __future__ import annotations

import csv
import io

from ftbench.report.summary import Summary


def comma_separated(summary: Summary) -> str:
    """Return one line a table, strategy and size: mean, interval, seeds and standing, unrounded."""
    names = ["table", "strategy", "size", "metric", "mean", "low", "high", "seeds", "standing"]
    lines: list[list[object]] = []
    for table in summary.tables:
        for row in table.rows:
            for size, cell in row.cells.items():
                i = cell.interval
                values = [i.mean, i.low, i.high, i.count] if i else [None, None, None, 0]
                lost = "; ".join(f"{count} {status}" for status, count in cell.missing.items())
                where = [table.title, row.strategy, size, table.metric.name]
                lines.append([*where, *values, cell.standing, lost])
    return lines_of_csv([*names, "missing"], lines)


def lines_of_csv(names: list[str], lines: list[list[object]]) -> str:
    """Return a heading and lines as CSV; None is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(lines)
    return out.getvalue()
