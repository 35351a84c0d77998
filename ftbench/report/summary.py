"""What a report format is given: per table, strategies × sizes with intervals and standings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ftbench.metric import Metric
from ftbench.report.metrics import KEPT
from ftbench.stats import Comparison, Interval

Standing = Literal["best", "tied", "behind", "undecided"]


@dataclass(frozen=True)
class Cell:
    """One strategy at one size. ``interval`` is None where no run has ended well.

    Of a cost it has the mean and no bounds, since runs on one machine are not independent draws;
    ``spread`` is the smallest and the largest then, and ``cpu_seconds`` stands beside wall seconds.
    """

    interval: Interval | None
    standing: Standing = "undecided"
    missing: Mapping[str, int] = field(default_factory=dict)  # runs that did not, by status
    spread: tuple[float, float] | None = None
    cpu_seconds: float | None = None  # mean over seeds


@dataclass(frozen=True)
class Row:
    """One strategy: its cells by size, and what it kept and cost at the largest size."""

    strategy: str
    cells: Mapping[int, Cell]
    source_kept: Interval | None
    train_seconds: float | None  # mean over seeds
    trainable_parameters: int | None
    train_cpu_seconds: float | None = None  # mean over seeds; None in records of old


@dataclass(frozen=True)
class Table:
    """Runs that may be compared: one task, backbone and recipe."""

    title: str
    metric: Metric
    sizes: Sequence[int]
    rows: Sequence[Row]
    # By size, Holm-corrected over the table; none where the metric is a cost.
    comparisons: Mapping[int, Sequence[Comparison]]
    source_accuracy_before: float | None
    notes: Sequence[str]
    kept_heading: str = "source kept"  # of the rows' source_kept

    @property
    def kept_metric(self) -> Metric:
        """How the rows' ``source_kept`` reads."""
        return KEPT[self.kept_heading]


@dataclass(frozen=True)
class Summary:
    """What a report format is given."""

    tables: Sequence[Table]
