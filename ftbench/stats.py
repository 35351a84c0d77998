"""Intervals over seeds and paired comparisons between strategies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# Student's t by scipy.special, as scipy.stats has it: that takes a second of CPU to import.
MIN_PAIRED_SEEDS = 3  # below it a paired t-test has at most one degree of freedom
SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Interval:
    """A mean over ``count`` seeds; ``low`` and ``high`` are None where one seed cannot tell."""

    mean: float
    low: float | None
    high: float | None
    count: int

    @property
    def half_width(self) -> float | None:
        """Half the interval's width, the number behind ±."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


@dataclass(frozen=True)
class Comparison:
    """Two strategies on the seeds they share. ``p_value`` is Holm-corrected, None: too few."""

    first: str
    second: str
    difference: float  # mean over the shared seeds of first − second
    seeds: int
    p_value: float | None

    @property
    def distinguishable(self) -> bool:
        """Whether the difference is significant at 5 % after correction."""
        return self.p_value is not None and self.p_value < SIGNIFICANCE


def mean_interval(
    values: Sequence[float], *, resolution: float = 0.0, confidence: float = 0.95
) -> Interval:
    """Return the mean with Student's t interval over independent seeds; ValueError where empty.

    ``resolution`` is the step that scores come in, 1/500 for an accuracy on 500 rows. Rounding to
    it hides a spread below it, so its variance, resolution²/12, is added to the sample's: without
    that, three equal scores would claim to be certain.
    """
    from scipy import special

    if not len(values):
        raise ValueError("mean_interval needs at least one value")
    sample = np.asarray(values, dtype=np.float64)
    mean = float(sample.mean())
    if len(sample) < 2:
        return Interval(mean, None, None, len(sample))
    error = ((float(sample.var(ddof=1)) + resolution**2 / 12) / len(sample)) ** 0.5
    reach = float(special.stdtrit(len(sample) - 1, (1 + confidence) / 2)) * error
    return Interval(mean, mean - reach, mean + reach, len(sample))


def paired_p_value(
    first: Sequence[float], second: Sequence[float], *, resolution: float = 0.0
) -> float | None:
    """Return the two-sided paired t-test's p; None with too few pairs.

    ``resolution`` is the step that scores come in; its variance, 2 · resolution²/12 for a
    difference, is added to the sample's. Differences without any spread give the test no scale to
    judge by and count as undecided, p = 1, never as infinitely significant.
    """
    from scipy import special

    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    if len(difference) < MIN_PAIRED_SEEDS:
        return None
    rounding = 2 * resolution**2 / 12
    if not rounding and np.ptp(difference) <= 1e-12 * max(1.0, float(np.abs(difference).max())):
        return 1.0
    error = ((float(difference.var(ddof=1)) + rounding) / len(difference)) ** 0.5
    return float(2 * special.stdtr(len(difference) - 1, -abs(float(difference.mean())) / error))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p-values in the given order (Holm 1979).

    SciPy has no Holm, and statsmodels would be a dependency for these six lines; the tests compare
    with it.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return [float(value) for value in np.minimum(adjusted, 1.0)]


def compare_all(
    columns: Mapping[str, Mapping[str, Mapping[int, float]]], *, resolution: float = 0.0
) -> dict[str, list[Comparison]]:
    """Compare every pair within each column, Holm-corrected over all columns' pairs together.

    ``columns[column][strategy][seed]`` is a score, in steps of ``resolution``. Pairs with fewer
    than three shared seeds are returned with p None and take no part in the correction.
    """
    raw: list[tuple[str, Comparison]] = []
    for column, strategies in columns.items():
        names = list(strategies)
        for i, first in enumerate(names):
            for second in names[i + 1 :]:
                seeds = sorted(strategies[first].keys() & strategies[second].keys())
                a = [strategies[first][s] for s in seeds]
                b = [strategies[second][s] for s in seeds]
                gap = float(np.mean(np.subtract(a, b))) if seeds else float("nan")
                p = paired_p_value(a, b, resolution=resolution)
                raw.append((column, Comparison(first, second, gap, len(seeds), p)))
    corrected = iter(holm([c.p_value for _, c in raw if c.p_value is not None]))
    compared: dict[str, list[Comparison]] = {column: [] for column in columns}
    for column, c in raw:
        p = None if c.p_value is None else next(corrected)
        compared[column].append(Comparison(c.first, c.second, c.difference, c.seeds, p))
    return compared
