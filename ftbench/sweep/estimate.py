"""How long runs should take: from finished ones that are like them, or from short trials."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ftbench.config import SweepSpec
from ftbench.plugins import Catalogue
from ftbench.recipe import PARTS, Recipe
from ftbench.records import RunRecord, RunSpec, identity_of
from ftbench.run import resolve_device, run_one
from ftbench.sweep.plan import Plan
from ftbench.sweep.points import PerSetting


@dataclass(frozen=True)
class Likeness:
    """What runs share whose seconds tell of each other's."""

    whole: str  # task, backbone, strategy and recipe
    but_length: str  # the same with a batch size for the recipe


class Estimator:
    """Learns from finished runs what others should take.

    A run counts as the mean of those with its task, backbone, strategy and recipe, or else of
    those with its batch size, their steps taken for its own. Runs of another kind of device do not
    count where ``device_type`` is given.
    """

    def __init__(self, records: Iterable[RunRecord] = (), device_type: str = "") -> None:
        self._device_type = device_type
        self._likeness = PerSetting(likeness)
        self._same: dict[str, _Mean] = defaultdict(_Mean)
        self._besides_steps: dict[str, _Mean] = defaultdict(_Mean)
        self._of_a_step: dict[str, _Mean] = defaultdict(_Mean)
        for record in records:
            self.learn(record)

    def learn(self, record: RunRecord) -> None:
        """Take in a finished run; one that did not end well tells nothing."""
        elsewhere = record.environment.get("device_type", "") != self._device_type
        if record.status != "ok" or (self._device_type and elsewhere):
            return
        alike = self._likeness(record)
        step = _number(record.costs.get("step_seconds"))
        besides = record.run_seconds - step * _number(record.protocol.get("steps"))
        self._same[alike.whole].add(record.run_seconds)
        self._besides_steps[alike.but_length].add(max(0.0, besides))
        self._of_a_step[alike.but_length].add(step)

    def seconds(self, run: RunSpec, alike: Likeness | None = None) -> float | None:
        """Return what one run should take; None where no finished run is like it."""
        alike = alike or self._likeness(run)
        if alike.whole in self._same:
            return self._same[alike.whole].value
        if alike.but_length not in self._of_a_step:
            return None
        steps = Recipe.model_validate(run.recipe).total_steps(run.size)
        step = self._of_a_step[alike.but_length].value
        return self._besides_steps[alike.but_length].value + steps * step


class TimeLeft:
    """The runs that are still to come, and what they should take together."""

    def __init__(self, plan: Plan) -> None:
        self._estimator = Estimator(plan.records, plan.device_type)
        kinds = kinds_of(plan.pending)
        self._kinds = {run.key: kind for run, kind in zip(plan.pending, kinds, strict=True)}
        self._one_of = dict(zip(kinds, plan.pending, strict=True))
        self._left = Counter(kinds)
        self._seen = _Mean()
        self._workers = plan.workers

    def finished(self, record: RunRecord) -> None:
        """Take a run off, and learn from it."""
        self._estimator.learn(record)
        self._seen.add(record.run_seconds)
        if record.key in self._kinds:
            self._left[self._kinds.pop(record.key)] -= 1

    def seconds(self) -> float | None:
        """Return the seconds left, with the plan's workers; None: unknown.

        A run like no finished one counts as the mean of those that this has seen finish.
        """
        otherwise = self._seen.value if self._seen else None
        total = 0.0
        for kind, count in self._left.items():
            if count > 0:
                one = self._estimator.seconds(self._one_of[kind], kind)
                one = otherwise if one is None else one
                if one is None:
                    return None
                total += count * one
        return total / self._workers if math.isfinite(total) else None


def kinds_of(runs: Iterable[RunSpec]) -> list[Likeness]:
    """Return the likeness of each run."""
    return list(map(PerSetting(likeness), runs))


def likeness(run: RunSpec | RunRecord) -> Likeness:
    """Return what a run shares with others by its identity."""
    identity = identity_of(run)
    recipe = identity["recipe"]
    parts = [identity[part]["name"] for part in ("task", "backbone")]
    parts += [identity[part].get("options") for part in ("task", "backbone")]
    parts.append(identity["strategy"])
    size = identity["size"] if recipe.get("epochs") is not None else 0
    whole = json.dumps([parts, recipe, size], sort_keys=True)
    return Likeness(whole, json.dumps([parts, recipe.get("batch_size")], sort_keys=True))


def _number(value: object) -> float:
    """Return a number of a record, 0 where it holds something else."""
    if isinstance(value, int | float) and abs(value) <= sys.float_info.max:
        return float(value)
    return 0.0


class _Mean:
    """A mean that is added to."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def __bool__(self) -> bool:
        return self._count > 0

    def add(self, value: float) -> None:
        """Take in a value."""
        self._sum += value
        self._count += 1

    @property
    def value(self) -> float:
        """The mean so far."""
        return self._sum / self._count


def estimate_seconds(plan: Plan) -> float | None:
    """Return the seconds that the pending runs should take, from finished ones; None: unknown."""
    return TimeLeft(plan).seconds()


def probe_seconds(plan: Plan, spec: SweepSpec, catalogue: Catalogue) -> float:
    """Return the seconds that the pending runs should take, from short trials of each kind.

    Of runs that are alike, the first trains for a few steps, and nothing is stored.
    """
    steps, device = 6, resolve_device(spec.device)
    kinds = [kind.but_length for kind in kinds_of(plan.pending)]
    firsts = dict(reversed(list(zip(kinds, plan.pending, strict=True))))
    # Warm-up: the first run also loads the data.
    _probe(next(iter(firsts.values())), 1, catalogue, device)
    trials = {kind: _probe(run, steps, catalogue, device) for kind, run in firsts.items()}
    steps_of, total = PerSetting(_steps), 0.0
    for kind, run in zip(kinds, plan.pending, strict=True):
        trial = trials[kind]
        rest = steps_of(run) - steps
        total += trial.run_seconds + float(trial.costs.get("step_seconds") or 0.0) * rest
    return total / plan.workers


def _steps(run: RunSpec | RunRecord) -> int:
    identity = identity_of(run)
    settings = {n: v for n, v in identity["recipe"].items() if n not in PARTS}
    return Recipe.model_validate(settings).total_steps(identity["size"])


def _probe(run: RunSpec, steps: int, catalogue: Catalogue, device: str) -> RunRecord:
    recipe = {**run.recipe, "steps": steps, "epochs": None}
    return run_one(replace(run, recipe=recipe), catalogue, device=device)
