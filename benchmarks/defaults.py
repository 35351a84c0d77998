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
4. A choice at the edge of the grid is no choice: the axis is extended there for that strategy
   (``EXTENSIONS``), and the rule is applied again.
5. Each strategy's *own* rate and strength follow from rules 2 and 3 with that strategy alone.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import ftbench
from ftbench import subsets
from ftbench.tasks.digits import Digits

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
EXTENSIONS: Mapping[str, tuple[tuple[float, ...], tuple[float | str, ...]]] = {}
"""Rates and strengths by which a strategy's grid was extended, because its best lay on the edge."""
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


def specs(**changes: Any) -> Iterator[tuple[str, ftbench.SweepSpec]]:
    """Yield the sweeps of the study, each with the name of its directory: one a rate.

    They come again with one seed more each time, so that whole tables exist early; what has run
    does not run again. ``changes`` are spec keys that take the place of the study's.
    """
    whole: dict[str, Any] = {
        "task": "digits-study",
        "device": "cpu",
        "sizes": SIZES,
        "seeds": SEEDS,
        **changes,
    }
    recipe = whole.pop("recipe", {})
    seeds = whole.pop("seeds")
    for count in range(1, len(seeds) + 1):
        for rate, strategies in grid().items():
            values = {**whole, "seeds": seeds[:count], "strategies": strategies}
            values["recipe"] = {**recipe, "learning_rate": rate}
            yield f"rate-{rate:g}", ftbench.SweepSpec.model_validate(values)


def run_study(
    out: Path,
    catalogue: ftbench.plugins.Catalogue | None = None,
    **changes: Any,
) -> None:
    """Run what is missing of the study into the directories below ``out``."""
    catalogue = catalogue or ftbench.load_catalogue(extra={"benchmarks": StudyTask()})
    for folder, spec in specs(**changes):
        plan = ftbench.run_sweep(spec, out / folder, catalogue=catalogue)
        ok = sum(record.status == "ok" for record in plan.done.values())
        sys.stderr.write(f"{folder}, {len(spec.seeds)} seeds: {ok} of {len(plan.runs)} runs ok\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.defaults")
    parser.add_argument("--out", type=Path, required=True, help="where the runs are kept")
    options = parser.parse_args(arguments)
    run_study(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
