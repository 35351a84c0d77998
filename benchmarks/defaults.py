"""The study behind the strategies' defaults: learning rate × each strategy's own strength.

``python -m benchmarks.defaults --out DIR`` runs what is missing of the grid into DIR and prints
the tables; ``--write`` keeps them in benchmarks/results/defaults.md and defaults.csv.

Nothing is chosen on what the README reports. Its tables use the seeds 0 to 9 and 500 test rows;
here the seeds are 100 to 104, and those rows do not exist: the task ``digits-study`` splits the
pool of ``digits`` once more.

The rule, written down before the first run:

1. A configuration is judged by its *curve mean*: its accuracy, averaged over the sizes, seed by
   seed. What it keeps of the source is averaged in the same way.
2. One learning rate serves every strategy, because the recipe is shared by all rows of a table and
   must not favour one. It is the rate with the highest curve mean, averaged over the strategies,
   each with its own best strength at that rate. Among rates within one paired standard error of
   it, the one that keeps most of the source is taken.
3. At that rate each strategy gets the strength with the highest curve mean. Strengths that a paired
   t-test over the seeds cannot tell from it at 5 % are equal to it. Among equals, l2sp and ewc take
   the one that keeps most of the source, which is what they are for; the others take the simplest,
   which stands first in ``STRENGTHS``.
4. A choice at the edge of the grid is no choice, and the best by accuracy must not lie there
   either: the axis is extended for that strategy (``EXTENSIONS``), and the rule is applied again.
5. Each strategy's *own* rate and strength follow from rules 2 and 3 with that strategy alone.

Rule 6 was added when most runs were in: ``full`` has no strength to choose. Every other strategy
at strength zero is ``full`` as it stands, and a ``decay`` below 1 makes another strategy of it. The
grid shows its decays, and the page says what rules 1 to 5 alone would have chosen.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

import ftbench
from benchmarks.study import Point, Study, best, choose, edges, read_study, spelt
from benchmarks.study_tables import (
    choice_table,
    grid_table,
    pair_table,
    points_csv,
    rate_table,
)
from ftbench import subsets
from ftbench.plugins import Catalogue
from ftbench.tasks.digits import Digits

_RESULTS = Path(__file__).parent / "results"

RATES = (1e-4, 3e-4, 1e-3, 3e-3)
STRENGTHS: Mapping[str, tuple[str, tuple[float | str, ...]]] = {
    # The option that is a strategy's own strength, and its values, the simplest first.
    "scratch": ("", ()),
    "full": ("decay", (1.0, 0.65)),
    "partial": ("stages", (1, 2, 3)),
    "progressive": ("form", ("gradual", "classic")),
    "head-only": ("rate", (1.0, 10 / 3, 10.0)),
    "l2sp": ("alpha", (0.001, 0.01, 0.1)),
    "ewc": ("strength", (10.0, 100.0, 1000.0)),
}
EXTENSIONS: Mapping[str, tuple[tuple[float, ...], tuple[float | str, ...]]] = {
    "scratch": ((1e-2,), ()),
    "full": ((), (1 / 2.6,)),
    "l2sp": ((), (0.0001,)),
    "ewc": ((), (1.0,)),
}
"""Rates and strengths by which a strategy's grid was extended, because its best lay on the edge."""
ENDS = {
    "full": ("decay=1",),
    "partial": ("stages=1",),
    "progressive": ("form=classic", "form=gradual"),
    "head-only": ("rate=1", "rate=10", "at 0.0001", "at 0.003"),
    "l2sp": ("alpha=0.0001",),
    "ewc": ("strength=1",),
}
"""Where a grid may end: nothing lies beyond, or another strategy. No stage at all is head-only, and
a weaker pull than these scores as full does. In head-only the learning rate and ``rate`` count as
their product alone, and that reaches further than either.
"""
SIZES = (20, 50, 100, 400)
SEEDS = (100, 101, 102, 103, 104)
TEST_ROWS = 400


class StudyDigits(Digits):
    """The pool of ``digits`` alone, split once more: a pool of 897 rows and 400 for test."""

    name = "digits-study"
    version = "1"

    def pool(self) -> ftbench.TensorExamples:
        """Return 897 of the 1,297 rows of the pool of ``digits``."""
        return super().pool().subset(_rows()[0])

    def test(self) -> ftbench.TensorExamples:
        """Return the other 400, stratified, the same for every seed; none is a test row there."""
        return super().pool().subset(_rows()[1])

    def fingerprint(self) -> str:
        """Return a hash of the digits, the letters and both splits."""
        whole = np.frombuffer(super().fingerprint().encode(), dtype=np.uint8)
        return ftbench.data_fingerprint(whole, *_rows())


@functools.cache
def _rows() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the (pool, test) rows among the rows of the pool of ``digits``."""
    order = subsets.stratified_order(Digits().pool().strata, "digits-study", "test set")
    return np.sort(order[TEST_ROWS:]), np.sort(order[:TEST_ROWS])


class StudyTask:
    """The plugin that brings the task."""

    @ftbench.hookimpl
    def ftbench_tasks(self) -> Iterable[type[ftbench.Task]]:
        """Return the task."""
        return [StudyDigits]


def grid() -> dict[float, tuple[str, ...]]:
    """Return the references of the strategies, strengths and all, that run at each rate."""
    found: dict[float, list[str]] = {}
    for name, (option, strengths) in STRENGTHS.items():
        more_rates, more_strengths = EXTENSIONS.get(name, ((), ()))
        values = ", ".join(repr(value) for value in (*strengths, *more_strengths))
        for rate in (*RATES, *more_rates):
            found.setdefault(rate, []).append(f"{name}({option}=[{values}])" if option else name)
    return {rate: tuple(found[rate]) for rate in sorted(found)}


def points() -> list[Point]:
    """Return every point of the grid, of one strategy the simplest strengths first."""
    found = []
    for name, (option, strengths) in STRENGTHS.items():
        more_rates, more_strengths = EXTENSIONS.get(name, ((), ()))
        texts = [spelt(option, value) for value in (*strengths, *more_strengths)] or [""]
        rates = sorted((*RATES, *more_rates))
        found += [Point(name, text, rate) for text in texts for rate in rates]
    return found


def base_sweep() -> ftbench.SweepSpec:
    """Return what the sweeps of the study share; they differ in learning rate and strategies."""
    return ftbench.SweepSpec(tasks=("digits-study",), device="cpu", sizes=SIZES, seeds=SEEDS)


def sweeps(base: ftbench.SweepSpec) -> Iterator[tuple[str, ftbench.SweepSpec]]:
    """Yield the sweeps, each with the name of its directory: one a rate.

    They come again with one seed more each time, so that whole tables exist early; what has run
    does not run again.
    """
    for count in range(1, len(base.seeds) + 1):
        for rate, strategies in grid().items():
            recipe = base.recipe.model_copy(update={"learning_rate": rate})
            changes = {"seeds": base.seeds[:count], "strategies": strategies, "recipe": recipe}
            yield _folder(rate), base.model_copy(update=changes)


def _folder(rate: float) -> str:
    return f"rate-{rate:g}"


def run_study(out: Path, base: ftbench.SweepSpec, catalogue: Catalogue) -> None:
    """Run what is missing of the study into the directories below ``out``."""
    for folder, spec in sweeps(base):
        plan = ftbench.run_sweep(spec, out / folder, catalogue=catalogue)
        ok = sum(record.status == "ok" for record in plan.done.values())
        sys.stderr.write(f"{folder}, {len(spec.seeds)} seeds: {ok} of {len(plan.runs)} runs ok\n")


def load_study(out: Path, sizes: Sequence[int]) -> tuple[Study, pd.DataFrame]:
    """Return the study below ``out`` and the rows behind it; ValueError where too little ran."""
    folders = [out / _folder(rate) for rate in grid()]
    frame = pd.concat([ftbench.load_results(f) for f in folders if f.exists()], ignore_index=True)
    options = {name: option for name, (option, _) in STRENGTHS.items()}
    study = read_study(frame, points(), sizes, options)
    return study, frame[frame["seed"].isin(study.seeds)]


def choices(study: Study) -> tuple[dict[str, Point], dict[str, Point]]:
    """Return the points at the common rate, and those of each strategy's own, by strategy."""
    study = _plain(study)
    own = {name: choose(study, [name])[name] for name in STRENGTHS}
    return choose(study, list(STRENGTHS)), own


def _plain(study: Study) -> Study:
    """Return the study with full as it stands alone: rule 6."""
    points = [p for p in study.points if p.strategy != "full" or p.strength == "decay=1"]
    return dataclasses.replace(study, points=points)


def page(study: Study, frame: pd.DataFrame) -> str:
    """Return the page of Markdown about the study and the runs behind it."""
    chosen, own = choices(study)
    rate = next(iter(chosen.values())).rate
    lines = [
        "# The study behind the strategies' defaults",
        "",
        f"The learning rate that serves all strategies best is {rate:g}. "
        "`python -m benchmarks.defaults --out DIR --write` remakes this page; the module's "
        "docstring states the rule.",
        "",
        *choice_table(study, chosen, own),
        "",
        _without_rule_6(study),
        "",
        "Accuracy and source kept (%) are means over the sizes and seeds. A gain is paired, ± half "
        "its 95 % t-interval. A strategy's own rate and strength follow from the rule with that "
        "strategy alone.",
        "",
        "## The learning rate",
        "",
        *rate_table(_plain(study), list(STRENGTHS)),
        "",
        "Means over the strategies, each at its best strength at that rate; ± is the paired "
        "standard error.",
        "",
        "## The grid",
        "",
        *grid_table(study, chosen),
        "",
        "Accuracy, ± the paired standard error of its distance from the strategy's best (*), then "
        "source kept. Bold: chosen. Every size alone, with NLL: defaults.csv.",
        "",
        "## What forgetting depends on",
        "",
    ]
    for first, second in pairs(study, own):
        lines += [*pair_table(study, first, second), ""]
    lines += [
        "Differences are the first's minus the second's, paired over the seeds, ± half their 95 % "
        "t-interval. The own rates were chosen on these seeds, so their accuracies are optimistic.",
        "",
        *_facts(study, frame, edges(study, _leading(study, chosen, own), ENDS)),
    ]
    return "\n".join(lines) + "\n"


def _without_rule_6(study: Study) -> str:
    """Return a sentence on what would have been chosen if full's decay were a strength like any."""
    found = choose(study, list(STRENGTHS))
    listing = ", ".join(f"{p.strategy} {p.strength}".strip() for p in found.values())
    return f"Without rule 6: rate {next(iter(found.values())).rate:g}, {listing}."


def _leading(
    study: Study, chosen: Mapping[str, Point], own: Mapping[str, Point]
) -> Iterator[Point]:
    """Yield what is chosen, and what is best by accuracy at those rates and over all."""
    for strategy, its_own in own.items():
        taken = (chosen[strategy], its_own)
        yield from taken
        yield from (best(study, study.of(strategy, point.rate)) for point in taken)
        yield best(study, study.of(strategy))


def pairs(study: Study, own: Mapping[str, Point]) -> list[tuple[Point, Point]]:
    """Return what is compared size by size: own rates, two rates of full, two of l2sp's pulls."""
    wanted = [
        (own["full"], own["ewc"]),
        (own["full"], Point("full", "decay=0.65", 1e-3)),
        (Point("full", "decay=1", 3e-4), Point("full", "decay=1", 1e-3)),
        (Point("l2sp", "alpha=0.01", 1e-3), Point("l2sp", "alpha=0.1", 1e-3)),
    ]
    return [pair for pair in wanted if all(point in study.points for point in pair)]


def _facts(study: Study, frame: pd.DataFrame, at_edges: Sequence[str]) -> Iterator[str]:
    """Yield what the page's numbers are of, a line each."""
    seeds = f"{study.seeds[0]} to {study.seeds[-1]}"
    failed = frame["status"][frame["status"] != "ok"].value_counts()
    listing = ", ".join(f"{count} {status}" for status, count in failed.items()) or "none failed"
    yield (
        f"- {len(frame)} runs ({listing}): {len(study.points)} points, "
        f"{len(study.sizes)} sizes, seeds {seeds}, {study.test_rows} test rows that no README "
        "table uses; intervals cover the seeds, for these rows"
    )
    yield f"- at the edge of the grid: {', '.join(at_edges) or 'no choice'}"
    for column, noun in (("env_processor", "processor"), ("env_torch", "torch")):
        values = ", ".join(sorted(frame[column].astype(str).unique()))
        yield f"- {noun}: {values}"
    yield "- one thread a run; but for the learning rate, the recipe's defaults"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, print the page, and keep it where asked."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.defaults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--write", action="store_true", help="keep the page in benchmarks/results")
    parser.add_argument("--no-runs", action="store_true", help="tell what has run so far")
    options = parser.parse_args(arguments)
    base = base_sweep()
    if not options.no_runs:
        run_study(options.out, base, ftbench.load_catalogue(extra={"benchmarks": StudyTask()}))
    study, frame = load_study(options.out, [int(size) for size in base.sizes])
    text = page(study, frame)
    sys.stdout.write(text)
    if options.write and list(study.seeds) != list(base.seeds):
        parser.error(
            f"--write keeps whole studies; this one has {len(study.seeds)} of {len(base.seeds)} "
            "seeds, run the same command without --no-runs"
        )
    if options.write:
        (_RESULTS / "defaults.md").write_text(text, encoding="utf-8")
        csv = points_csv(study, choices(study)[0])
        (_RESULTS / "defaults.csv").write_text(csv, encoding="utf-8")
        sys.stderr.write("written: benchmarks/results/defaults.md and defaults.csv\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
