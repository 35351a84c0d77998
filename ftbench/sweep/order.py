"""Which run starts next where several are in progress: the longest, so that all end evenly."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator

from ftbench.records import RunRecord, RunSpec
from ftbench.sweep.estimate import Estimator, Likeness, kinds_of
from ftbench.sweep.plan import Plan

_Place = tuple[bool, int]  # whether a run is tried again, and its task and backbone in plan order


class LongestFirst:
    """The pending runs, one at a time; estimates learn from what finishes meanwhile.

    What shares task and backbone, and so data and what is computed once, runs together. Of that the
    run that should take longest is next; one like no finished run comes before, since somebody has
    to show how long it takes. Runs that failed before come last.
    """

    def __init__(self, plan: Plan) -> None:
        self._estimator = Estimator(plan.records, plan.device_type)
        self._waiting: dict[_Place, dict[Likeness, deque[RunSpec]]] = {}
        pairs: dict[tuple[str, str], int] = {}
        found: dict[_Place, dict[Likeness, deque[RunSpec]]] = defaultdict(
            lambda: defaultdict(deque)
        )
        for run, kind in zip(plan.pending, kinds_of(plan.pending), strict=True):
            pair = pairs.setdefault((run.task.label, run.backbone.label), len(pairs))
            found[run.key in plan.done, pair][kind].append(run)
        self._waiting = {place: found[place] for place in sorted(found)}

    def finished(self, record: RunRecord) -> None:
        """Learn how long a run took."""
        self._estimator.learn(record)

    def __iter__(self) -> Iterator[RunSpec]:
        """Yield the runs; each is chosen as it is asked for."""
        for kinds in self._waiting.values():
            started: set[Likeness] = set()
            while kinds:
                kind = max(kinds, key=lambda kind: self._length(kinds[kind][0], kind, started))
                started.add(kind)
                yield kinds[kind].popleft()
                if not kinds[kind]:
                    del kinds[kind]

    def _length(self, run: RunSpec, kind: Likeness, started: set[Likeness]) -> float:
        seconds = self._estimator.seconds(run, kind)
        if seconds is None:
            return -1.0 if kind in started else float("inf")
        return seconds
