"""The area under the ROC curve from ranks, many columns at once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

_AT_ONCE = 2_000_000  # numbers that are ranked together: bounds the memory

Score = float | None


def areas(scores: npt.NDArray[np.floating], positive: npt.NDArray[np.bool_]) -> list[Score]:
    """Return for each column of (N, K) the share of pairs that its scores put in order.

    A pair is a positive and another row; equal scores count half. It is the area under the ROC
    curve (Hanley & McNeil 1982); None for a column without a pair.
    """
    from scipy.stats import rankdata

    rows, columns = scores.shape
    step = max(1, _AT_ONCE // max(1, rows))
    found: list[Score] = []
    for start in range(0, columns, step):
        chosen = positive[:, start : start + step]
        ranks = rankdata(scores[:, start : start + step], axis=0)
        yes = chosen.sum(axis=0)
        pairs = yes * (rows - yes)
        ordered = (ranks * chosen).sum(axis=0) - yes * (yes + 1) / 2
        found += [
            float(value / count) if count else None
            for value, count in zip(ordered, pairs, strict=True)
        ]
    return found


def mean(values: Iterable[Score]) -> Score:
    """Return the mean of the scores that are defined, None where none is."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None
