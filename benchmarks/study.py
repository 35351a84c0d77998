"""Runs of a grid of learning rates and strengths → which of them a strategy should have.

benchmarks/defaults.py states the rule; here it is a pure function of the scores.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from ftbench import stats

LEAST_SEEDS = stats.MIN_PAIRED_SEEDS
METRICS = {"accuracy": "accuracy", "kept": "source_accuracy_after", "nll": "nll"}
"""What is read of a run, and the column of ``load_results`` that has it."""

Scores = npt.NDArray[np.float64]  # one a seed


class Point(NamedTuple):
    """One configuration of the grid."""

    strategy: str
    strength: str  # option=value, empty where the strategy has none
    rate: float


@dataclass(frozen=True)
class Study:
    """The scores of every point at every size, on the seeds at which all of them have run."""

    scores: Mapping[tuple[str, Point, int], Scores]  # by (metric, point, size); NaN: not ok
    points: Sequence[Point]  # of one strategy the simplest strengths first
    sizes: Sequence[int]
    seeds: Sequence[int]
    test_rows: int

    def at(self, metric: str, point: Point, size: int | None = None) -> Scores:
        """Return a point's scores, one a seed: at a size, or else the mean over the sizes."""
        if size is not None:
            return self.scores[metric, point, size]
        return np.asarray(np.mean([self.scores[metric, point, s] for s in self.sizes], axis=0))

    def of(self, strategy: str, rate: float | None = None) -> list[Point]:
        """Return the strategy's points without a failed run, at one rate or at all."""
        return [
            point
            for point in self.points
            if point.strategy == strategy
            and rate in (None, point.rate)
            and bool(np.isfinite(self.at("accuracy", point)).all())
        ]

    def mean(self, metric: str, point: Point, size: int | None = None) -> float:
        """Return the mean over the seeds."""
        return float(self.at(metric, point, size).mean())


def read_study(
    frame: pd.DataFrame,
    points: Sequence[Point],
    sizes: Sequence[int],
    options: Mapping[str, str],
) -> Study:
    """Return the study in the rows of ``load_results``, on the seeds at which every run has ended.

    ``options`` names each strategy's option that is its strength, empty where it has none.
    ValueError where fewer seeds are whole than a paired test needs.
    """
    rows: list[dict[str, Any]] = [
        dict(zip(map(str, frame.columns), values, strict=True))
        for values in frame.itertuples(index=False, name=None)
    ]
    ended = {(_point(row, options), int(row["size"]), int(row["seed"])): row for row in rows}
    seeds = [
        seed
        for seed in sorted({seed for _, _, seed in ended})
        if all((point, size, seed) in ended for point in points for size in sizes)
    ]
    if len(seeds) < LEAST_SEEDS:
        raise ValueError(
            f"the grid is whole at {len(seeds)} seeds and the rule needs {LEAST_SEEDS}; "
            "run the study to its end"
        )
    scores = {
        (metric, point, size): np.array(
            [ended[point, size, seed].get(column, math.nan) for seed in seeds], dtype=np.float64
        )
        for metric, column in METRICS.items()
        for point in points
        for size in sizes
    }
    test_rows = int(frame["test_rows"].dropna().iloc[0])
    return Study(scores, points, sizes, seeds, test_rows)


def spelt(option: str, value: object) -> str:
    """Return a strength as tables show it: ``alpha=0.01``, ``form=gradual``."""
    # Three digits, and 1000 not as 1e+03.
    text = f"{float(f'{value:.3g}'):g}" if isinstance(value, int | float) else value
    return f"{option}={text}"


def _point(row: Mapping[str, Any], options: Mapping[str, str]) -> Point:
    name = row["strategy_name"]
    option = options.get(name, "")
    strength = spelt(option, json.loads(row["strategy_options"])[option]) if option else ""
    return Point(name, strength, float(row["recipe_learning_rate"]))


def best(study: Study, points: Iterable[Point]) -> Point:
    """Return the point with the highest curve mean; the first of equal ones."""
    return max(points, key=lambda point: study.mean("accuracy", point))


def standard_error(differences: Scores) -> float:
    """Return the standard error of the mean of paired differences, one a seed."""
    return float(differences.std(ddof=1) / len(differences) ** 0.5)


def choose(
    study: Study, strategies: Sequence[str], keeping: Sequence[str] = ("l2sp", "ewc")
) -> dict[str, Point]:
    """Return each strategy's point at the rate that serves ``strategies`` best.

    The strategies in ``keeping`` prefer, among equal strengths, the one that keeps most.
    """
    rate = choose_rate(study, strategies)
    return {s: _choose_strength(study, s, rate, keeps=s in keeping) for s in strategies}


def shared_rates(study: Study, strategies: Sequence[str]) -> list[float]:
    """Return the rates at which each of the strategies has a point that never failed."""
    rates = sorted({point.rate for point in study.points})
    return [rate for rate in rates if all(study.of(s, rate) for s in strategies)]


def at_best(study: Study, metric: str, strategies: Sequence[str], rate: float) -> Scores:
    """Return the mean over the strategies, each at its best strength at ``rate``, one a seed.

    A strategy that keeps no source is left out of the mean of what is kept.
    """
    each = [study.at(metric, best(study, study.of(s, rate))) for s in strategies]
    known = [scores for scores in each if np.isfinite(scores).all()]
    return np.asarray(np.mean(known, axis=0)) if known else np.full(len(study.seeds), math.nan)


def choose_rate(study: Study, strategies: Sequence[str]) -> float:
    """Return the rate of the highest curve mean over the strategies, each at its best strength.

    Of the rates within one paired standard error of it, the one that keeps most of the source.
    """
    rates = shared_rates(study, strategies)
    means = {rate: at_best(study, "accuracy", strategies, rate) for rate in rates}
    leader = max(rates, key=lambda rate: float(means[rate].mean()))
    near = [leader]
    for rate in rates:
        behind = means[leader] - means[rate]
        if rate != leader and behind.mean() <= standard_error(behind):
            near.append(rate)
    # max() keeps the first, the leader, where nothing is kept at all (NaN compares false).
    return max(near, key=lambda rate: float(at_best(study, "kept", strategies, rate).mean()))


def equal_strengths(study: Study, strategy: str, rate: float) -> list[Point]:
    """Return the strengths at ``rate`` that no paired t-test at 5 % tells from the best."""
    points = study.of(strategy, rate)
    leader = best(study, points)
    # A mean over k sizes comes in finer steps than an accuracy, and its rounding is k times less.
    resolution = 1 / study.test_rows / len(study.sizes) ** 0.5
    found = []
    for point in points:
        p = stats.paired_p_value(
            study.at("accuracy", leader).tolist(),
            study.at("accuracy", point).tolist(),
            resolution=resolution,
        )
        if point == leader or p is None or p >= stats.SIGNIFICANCE:
            found.append(point)
    return found


def _choose_strength(study: Study, strategy: str, rate: float, *, keeps: bool) -> Point:
    equal = equal_strengths(study, strategy, rate)
    return max(equal, key=lambda point: study.mean("kept", point)) if keeps else equal[0]


def edges(study: Study, points: Iterable[Point], ends: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a line for each point whose learning rate or strength is the last that was tried.

    ``ends`` holds, by strategy, those at which a grid may end: ``alpha=0.01``, ``at 0.001``.
    """
    lines = []
    for point in points:
        rates = sorted({p.rate for p in study.points if p.strategy == point.strategy})
        strengths = sorted(
            {p.strength for p in study.points if p.strategy == point.strategy}, key=magnitude
        )
        for text, at_edge in (
            (f"at {point.rate:g}", point.rate in (rates[0], rates[-1])),
            (point.strength, point.strength in (strengths[0], strengths[-1])),
        ):
            if text and at_edge and text not in ends.get(point.strategy, ()):
                lines.append(f"{point.strategy} {text}")
    return list(dict.fromkeys(lines))


def magnitude(strength: str) -> tuple[float, str]:
    """Return a key that sorts strengths by their numbers, words by their letters."""
    try:
        return float(strength.partition("=")[2]), ""
    except ValueError:  # a word has no neighbours
        return 0.0, strength
