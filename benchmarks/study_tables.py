"""A study and what was chosen from it → Markdown of one page, and every point as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence

from benchmarks.study import (
    METRICS,
    Point,
    Scores,
    Study,
    at_best,
    best,
    magnitude,
    shared_rates,
    standard_error,
)
from benchmarks.table import aligned
from ftbench import stats

_UNITS = {"accuracy": 100.0, "kept": 100.0, "nll": 1.0}
_DIGITS = {"accuracy": 1, "kept": 1, "nll": 2}
_TITLES = {"accuracy": "accuracy (%)", "kept": "source kept (%)", "nll": "NLL (nats)"}


def choice_table(
    study: Study, chosen: Mapping[str, Point], own: Mapping[str, Point]
) -> Iterator[str]:
    """Yield the chosen points and each strategy's own, with what the own one gains."""
    head: tuple[str, ...] = ("strategy", "default", "accuracy", "source kept")
    head += ("its own rate and strength", "accuracy", "source kept", "gain in accuracy")
    rows = [head]
    for strategy, point in chosen.items():
        gain = study.at("accuracy", own[strategy]) - study.at("accuracy", point)
        rows.append(
            (
                strategy,
                point.strength or "–",
                *(shown(study, metric, point) for metric in ("accuracy", "kept")),
                f"{own[strategy].rate:g} {own[strategy].strength}".strip(),
                *(shown(study, metric, own[strategy]) for metric in ("accuracy", "kept")),
                "–" if point == own[strategy] else difference("accuracy", gain),
            )
        )
    yield from aligned(rows)


def rate_table(study: Study, strategies: Sequence[str]) -> Iterator[str]:
    """Yield the mean over the strategies at each rate, and how far it is from the best."""
    rates = shared_rates(study, strategies)
    means = {rate: at_best(study, "accuracy", strategies, rate) for rate in rates}
    leader = max(rates, key=lambda rate: float(means[rate].mean()))
    rows = [("learning rate", "accuracy", "behind the best", "source kept")]
    for rate, scores in means.items():
        behind = means[leader] - scores
        kept = at_best(study, "kept", strategies, rate)
        rows.append(
            (
                f"{rate:g}",
                _number("accuracy", float(scores.mean())),
                "–" if rate == leader else _with_error(behind),
                _number("kept", float(kept.mean())),
            )
        )
    yield from aligned(rows)


def grid_table(study: Study, chosen: Mapping[str, Point]) -> Iterator[str]:
    """Yield accuracy and source kept, strengths × rates; bold is chosen, * the best by accuracy."""
    rates = sorted({point.rate for point in study.points})
    rows = [("strategy", *(f"{rate:g}" for rate in rates))]
    for strategy in chosen:
        leader = best(study, study.of(strategy))
        strengths = {point.strength for point in study.points if point.strategy == strategy}
        for strength in sorted(strengths, key=magnitude):
            cells = [
                _grid_cell(study, Point(strategy, strength, rate), leader, chosen[strategy])
                for rate in rates
            ]
            rows.append((f"{strategy} {strength}".strip(), *cells))
    yield from aligned(rows)


def _grid_cell(study: Study, point: Point, leader: Point, chosen: Point) -> str:
    if point not in study.points:
        return ""
    if point not in study.of(point.strategy):
        return "failed"
    accuracy = shown(study, "accuracy", point)
    if point == leader:
        accuracy += "*"
    else:
        behind = study.at("accuracy", leader) - study.at("accuracy", point)
        accuracy += f" ± {100 * standard_error(behind):.1f}"
    text = f"{accuracy}, {100 * study.mean('kept', point):.0f}".replace(", nan", "")
    return f"**{text}**" if point == chosen else text


def pair_table(study: Study, first: Point, second: Point) -> Iterator[str]:
    """Yield what two points reach at each size, and their paired difference with its interval."""
    names = [f"{p.strategy} {p.strength}".strip() + f" at {p.rate:g}" for p in (first, second)]
    head = ["labels"]
    for metric in METRICS:
        head += [_TITLES[metric], "against", "difference"]
    rows = [tuple(head)]
    for size in (*study.sizes, None):
        cells = ["mean" if size is None else str(size)]
        for metric in METRICS:
            gap = study.at(metric, first, size) - study.at(metric, second, size)
            cells += [shown(study, metric, point, size) for point in (first, second)]
            cells.append(difference(metric, gap))
        rows.append(tuple(cells))
    yield f"{names[0]} against {names[1]}:"
    yield ""
    yield from aligned(rows)


def points_csv(study: Study, chosen: Mapping[str, Point]) -> str:
    """Return a line a point and size.

    Means over the seeds, and standard errors of the paired difference from the chosen point of
    the same strategy at the same size, empty at that point itself.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [name for metric in METRICS for name in (metric, f"{metric}_paired_error")]
    writer.writerow(["strategy", "strength", "learning_rate", "size", *names])
    for point in study.points:
        for size in study.sizes:
            cells: list[str] = []
            for metric in METRICS:
                gap = study.at(metric, point, size)
                gap = gap - study.at(metric, chosen[point.strategy], size)
                error = standard_error(gap)
                cells.append(_finite(study.mean(metric, point, size)))
                cells.append("" if point == chosen[point.strategy] else _finite(error))
            writer.writerow([point.strategy, point.strength, f"{point.rate:g}", size, *cells])
    return text.getvalue()


def shown(study: Study, metric: str, point: Point, size: int | None = None) -> str:
    """Return a point's mean over the seeds, in percent where it is a share."""
    return _number(metric, study.mean(metric, point, size))


def difference(metric: str, differences: Scores) -> str:
    """Return the mean of paired differences with half its 95 % t-interval."""
    if not math.isfinite(float(differences.mean())):
        return "–"
    interval = stats.mean_interval(differences.tolist())
    digits, unit = _DIGITS[metric], _UNITS[metric]
    reach = unit * (interval.half_width or 0.0)
    return f"{unit * interval.mean:+.{digits}f} ± {reach:.{digits}f}"


def _with_error(differences: Scores) -> str:
    return f"{100 * differences.mean():.2f} ± {100 * standard_error(differences):.2f}"


def _number(metric: str, value: float) -> str:
    return f"{_UNITS[metric] * value:.{_DIGITS[metric]}f}" if math.isfinite(value) else "–"


def _finite(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else ""
