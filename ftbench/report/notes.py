"""What stands under a table: what varies, what is tested, what is missing, what differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from ftbench import stats
from ftbench.metric import Metric
from ftbench.report.metrics import (
    ANSWERS_KEPT,
    CPU_SECONDS,
    KEPT,
    SOURCE_KEPT,
    WALL_SECONDS,
    kept_heading,
    row_counts,
)
from ftbench.stats import Comparison

Scores = Mapping[str, Mapping[int, float]]  # one column's, as [row][seed]

NOTABLE_OVERLAP = 0.1  # of two seeds' subsets, from which a note says it
WAITING_FACTOR = 1.25  # wall seconds over CPU seconds, above which a run waited for others


def notes_under(
    group: pd.DataFrame,
    metric: Metric,
    scores: Mapping[int, Scores],
    comparisons: Mapping[int, Sequence[Comparison]],
    *,
    comparable: bool,
) -> list[str]:
    """Return the lines under the table of one condition's runs.

    ``scores`` and ``comparisons`` are by size; ``comparable`` says that one device made all times.
    """
    ok = group[group["status"] == "ok"]
    notes = [_what_varies(ok, metric, scores)]
    notes += [] if metric.cost else _overlap(ok, scores)
    notes += [*_right_hand_columns(ok, metric), *_tests(metric, scores, comparisons)]
    notes += [*_remarks(ok), *_missing_runs(group), *_passes(ok), *_environment(ok)]
    notes += _waiting(ok) if comparable else []
    if not comparable:
        notes.append("Timings come from several devices and are not compared.")
    return notes


def _what_varies(ok: pd.DataFrame, metric: Metric, scores: Mapping[int, Scores]) -> str:
    """Return what a cell is, over how many seeds, and what an interval covers."""
    counts = [len(seeds) for column in scores.values() for seeds in column.values() if seeds]
    if not counts:
        return f"No run that ended well has this number ({metric.name})."
    few, many = min(counts), max(counts)
    over = f"{few} seeds" if few == many else f"{few} to {many} seeds"
    if metric.cost:
        mean = "One seed in each cell." if many == 1 else f"Mean [smallest, largest] over {over}."
        return f"{mean} {_UNTESTED[metric.cost == 'measured']}"
    where = _rows_scored_on(ok, metric)
    if many == 1:
        return f"One seed in each cell, so there are no intervals: scores are {where}."
    alone = "; one seed has no interval" if few == 1 else ""
    return f"Mean ± half the 95 % t-interval over {over} (subset, head, batches){alone}, {where}."


_UNTESTED = {
    # A reviewer would refuse a t-interval here: what slows one run down slows its neighbours too.
    True: "Costs are not tested and nothing is marked. Runs on one machine share its load, so they "
    "are not independent draws and have no interval.",
    False: "Counts are not tested.",
}


def _rows_scored_on(ok: pd.DataFrame, metric: Metric) -> str:
    if not metric.scored_on:
        return "on rows that change with the seed"
    noun = metric.scored_on.replace("_", " ")
    return f"for {_these_rows(ok, metric.scored_on)}; other {noun} would vary more"


def _these_rows(ok: pd.DataFrame, column: str) -> str:
    counts = [f"{count:,}" for count in row_counts(ok, column)]
    number = " to ".join(dict.fromkeys([counts[0], counts[-1]])) + " " if counts else ""
    return f"these {number}{column.replace('_', ' ')}"


def _passes(ok: pd.DataFrame) -> Iterator[str]:
    """Yield how many passes a step takes, where the strategies differ in it."""
    if "forward_passes" not in ok or "backward_passes" not in ok:
        return
    found = ok.dropna(subset=["forward_passes", "backward_passes"]).groupby("strategy")
    means = found[["forward_passes", "backward_passes"]].mean()
    kinds = {tuple(row) for row in means.itertuples(index=False)}
    if len(kinds) > 1:
        more = [
            f"{name} {forward:.3g} forward and {backward:.3g} backward"
            for name, forward, backward in means.itertuples()
            if (forward, backward) != (1.0, 1.0)
        ]
        yield f"Passes over a batch in a step, where other than one: {', '.join(more)}."


def _overlap(ok: pd.DataFrame, scores: Mapping[int, Scores]) -> Iterator[str]:
    """Yield which share of rows two seeds' subsets have in common, where that is notable."""
    shares = {}
    for size, column in scores.items():
        share = _shared_rows(ok[ok["size"] == size], size)
        if share >= NOTABLE_OVERLAP and any(len(seeds) > 1 for seeds in column.values()):
            shares[size] = share
    if shares:
        listing = ", ".join(
            f"{share:.0%} at {size}".replace("%", " %") for size, share in shares.items()
        )
        pool = " to ".join(f"{count:,}" for count in row_counts(ok, "pool_rows"))
        yield (
            f"Two seeds' subsets share rows of the pool of {pool}: {listing} labels on average. "
            "Seeds are not independent draws of the subset there, and intervals are too narrow for "
            "another pool."
        )


def _shared_rows(runs: pd.DataFrame, size: int) -> float:
    """Return the expected share of its rows that one seed's subset has in common with another's.

    The record's own expectation class by class, else size/pool, which is the least it can be; 0
    where the record has neither.
    """
    pool = row_counts(runs, "pool_rows")
    if not pool:
        return 0.0
    if "subset_overlap" in runs and runs["subset_overlap"].notna().any():
        return float(runs["subset_overlap"].mean())
    return size / pool[-1]


def _tests(
    metric: Metric, scores: Mapping[int, Scores], comparisons: Mapping[int, Sequence[Comparison]]
) -> Iterator[str]:
    # A row without any score in a column (scratch keeps no source) is in no comparison of it.
    every = [
        c
        for size, column in comparisons.items()
        for c in column
        if scores[size][c.first] and scores[size][c.second]
    ]
    tested = [c for c in every if c.p_value is not None]
    if metric.higher_is_better is None:
        yield "No best is marked: whether higher or lower is better is not known."
    elif tested:
        yield (
            f"Paired t-tests on shared seeds, Holm-corrected over the table's {len(tested)} "
            "comparisons: bold is distinguishable from every other in its column at 5 %, "
            "≈ is not distinguishably worse than the leader."
        )
        if len(tested) == len(every) and not any(c.distinguishable for c in tested):
            yield "No difference is distinguishable yet; more seeds tell more."
    if len(tested) < len(every):
        yield (
            f"Too few seeds to compare {'some' if tested else 'any'} pairs: a pair needs "
            f"{stats.MIN_PAIRED_SEEDS} shared seeds (--num-seeds 5)."
        )


def _right_hand_columns(ok: pd.DataFrame, metric: Metric) -> Iterator[str]:
    """Yield what the columns beside the sizes are."""

    def there(name: str) -> bool:
        return name in ok and bool(ok[name].notna().any())

    kept = KEPT[kept_heading(ok)]
    if there(kept.name) and metric.name != kept.name:
        what = f"{kept_heading(ok).capitalize()} {_IS_OVER[kept.name]}"
        yield f"{what} {_these_rows(ok, kept.scored_on)}."
    if not metric.cost and (there(WALL_SECONDS) or there("trainable_parameters")):
        yield "Costs on the right are means over runs and are not tested."


_IS_OVER = {
    SOURCE_KEPT.name: "is over seeds too, for",
    ANSWERS_KEPT.name: "are over seeds too: the share of test inputs whose first class is still "
    "what the untouched model answers, for",
}


def _remarks(group: pd.DataFrame) -> Iterator[str]:
    """Yield what strategies say of their runs."""
    if "remark" in group:
        said = group[["strategy", "remark"]].dropna().drop_duplicates()
        yield from (f"{name}: {text}." for name, text in said.itertuples(index=False) if text)


def _missing_runs(group: pd.DataFrame) -> Iterator[str]:
    failed = group["status"][group["status"] != "ok"].value_counts()
    if len(failed):
        listing = ", ".join(f"{count} {status}" for status, count in failed.items())
        yield f"Missing runs: {listing}; means are over the others."


def _waiting(ok: pd.DataFrame) -> Iterator[str]:
    """Yield for how many runs the wall clock went on while the process did not.

    On a GPU the CPU's time is naturally the lower, and records of old have none.
    """
    if CPU_SECONDS not in ok or WALL_SECONDS not in ok:
        return
    timed = ok[ok["device_type"] == "cpu"].dropna(subset=[CPU_SECONDS, WALL_SECONDS])
    waited = int((timed[WALL_SECONDS] > WAITING_FACTOR * timed[CPU_SECONDS]).sum())
    if waited:
        yield (
            f"In {waited} of {len(timed)} runs wall seconds are more than {WAITING_FACTOR:g} times "
            "CPU seconds: the process waited, as under other load. Their wall seconds are not what "
            "the runs would have cost alone."
        )


def _environment(ok: pd.DataFrame) -> Iterator[str]:
    """Yield a line for each thing about the environment in which the runs differ."""
    for column in ["device", *(str(c) for c in ok if str(c).startswith("env_"))]:
        if column == "env_strategy_owner":
            for name, found in ok.groupby("strategy")[column].unique().items():
                if len(found) > 1:
                    yield f"Runs of {name} come from {' and '.join(sorted(found))}."
        elif ok[column].nunique() > 1:
            listing = ", ".join(sorted(str(v) or "unknown" for v in ok[column].unique()))
            noun = column.removeprefix("env_").replace("_", "-")
            yield f"Runs differ in {noun}: {listing}."
