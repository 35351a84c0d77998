"""Expand the grid, skip what is done, hand runs to an executor, store records."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from ftbench import executors, ops, plugins, store, subsets
from ftbench.backbone import BackboneFamily
from ftbench.component import parse_reference
from ftbench.config import SweepSpec, to_toml
from ftbench.errors import FtbenchError, PluginError, SpecError, StoreError, did_you_mean
from ftbench.plugins import Catalogue, Kind
from ftbench.recipe import Recipe
from ftbench.records import STATUSES, ComponentId, RunRecord, RunSpec, Status, flatten
from ftbench.results import write_derived
from ftbench.run import resolve_device, run_one
from ftbench.task import Task, pool_strata, require_rows

DEFAULT_RETRY: tuple[Status, ...] = ("failed", "out-of-memory", "timeout", "crashed")
"""What a sweep tries again unasked. A diverged run is a result: it would diverge again."""


@dataclass(frozen=True)
class Plan:
    """What a sweep will do: all runs of the grid, and those still to run, in order."""

    runs: Sequence[RunSpec]
    pending: Sequence[RunSpec]
    done: Mapping[str, RunRecord] = field(default_factory=dict)  # by key, the latest attempts
    device_type: str = ""  # where the pending ones will run: cpu or cuda


class Progress:
    """Listens to a sweep; every method may be overridden."""

    def planned(self, plan: Plan) -> None:
        """The runs are known and the directory is locked."""

    def started(self, spec: RunSpec) -> None:
        """A run begins."""

    def stepped(self, step: int, total_steps: int) -> None:
        """The current run has taken ``step`` of its steps."""

    def finished(self, record: RunRecord) -> None:
        """A run has ended and its record is on disk."""


def expand(spec: SweepSpec, catalogue: Catalogue) -> list[RunSpec]:
    """Return the runs of the grid: seed by seed, so that an early stop leaves whole tables.

    Every name, option and size is checked here, before anything trains: SpecError or PluginError.
    """
    task, task_id = _one(catalogue, "task", spec.task)
    _, backbone_id = _one(catalogue, "backbone", spec.backbone)
    strategies = _strategies(catalogue, spec.strategies)
    with _naming(catalogue, "task", task.name):
        sizes = _sizes(spec, cast(Task, task))
    recipe = spec.recipe.model_dump(mode="json")
    return [
        RunSpec(
            task=task_id,
            backbone=backbone_id,
            strategy=strategy,
            recipe=recipe,
            size=size,
            seed=seed,
            threads=spec.threads,
            deterministic=spec.deterministic,
        )
        for seed in spec.seeds
        for size in sizes
        for strategy in strategies
    ]


def check_test_set(spec: SweepSpec, catalogue: Catalogue) -> None:
    """Raise SpecError where the task has no test rows; nothing but their number is looked at."""
    name, options = parse_reference(spec.task)[0]
    with _naming(catalogue, "task", name):
        task = cast(Task, catalogue.build("task", name, options))
        require_rows(task, "test()", task.test())


def make_plan(
    runs: Sequence[RunSpec],
    records: list[RunRecord],
    retry: Iterable[Status] = DEFAULT_RETRY,
    *,
    device_type: str = "",
) -> Plan:
    """Return what is still to run: runs never tried, then those whose status is in ``retry``.

    Retries come last, so that a run that brings the process down does not keep the others waiting.
    """
    again = set(retry)
    latest = store.latest(records)
    done = {run.key: latest[run.key] for run in runs if run.key in latest}
    untried = [run for run in runs if run.key not in done]
    retried = [run for run in runs if run.key in done and done[run.key].status in again]
    return Plan(runs, [*untried, *retried], done, device_type)


def parse_statuses(text: str) -> tuple[Status, ...]:
    """Return the statuses of a comma list; ``none`` is the empty list."""
    names = [part.strip() for part in text.split(",") if part.strip() and part.strip() != "none"]
    known = [status for status in STATUSES if status != "ok"]
    for name in names:
        if name not in known:
            raise SpecError(
                f"--retry: unknown status '{name}'{did_you_mean(name, known)} "
                f"(known: {', '.join(known)}, none)"
            )
    return cast("tuple[Status, ...]", tuple(names))


def run_sweep(
    spec: SweepSpec,
    out: str | Path,
    *,
    retry: Iterable[Status] = DEFAULT_RETRY,
    catalogue: Catalogue | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Run what is missing of the grid into the directory ``out``; return the plan as it ends.

    Each record is on disk before the next run starts. On an interrupt the derived files are
    written and KeyboardInterrupt passes on. FtbenchError where nothing could start.
    """
    catalogue = catalogue or plugins.load_catalogue()
    progress = progress or Progress()
    runs = expand(spec, catalogue)
    check_test_set(spec, catalogue)
    device = resolve_device(spec.device)
    device_type = device.partition(":")[0]
    directory = Path(out)
    # Compiles on first use, so before the clock of any run starts; and what the environment asks
    # for in vain is said before anything is planned or written.
    ops.implementation()
    with store.Store(directory) as opened:
        opened.write_text(store.SPEC, store.SPEC_HEADER + to_toml(spec))
        plan = make_plan(runs, opened.records(), retry, device_type=device_type)
        progress.planned(plan)
        try:
            for record in _records(plan.pending, opened, catalogue, device, spec, progress):
                opened.append(record)
                catalogue.notify("ftbench_run_finished", record=record)
                progress.finished(record)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                opened.forget_running()  # stopped on purpose, not crashed
            with contextlib.suppress(StoreError):  # the first error is the one to read
                write_derived(directory)
            raise
        write_derived(directory)
        return make_plan(runs, opened.records(), retry)


def _records(
    pending: Sequence[RunSpec],
    opened: store.Store,
    catalogue: Catalogue,
    device: str,
    spec: SweepSpec,
    progress: Progress,
) -> Iterator[RunRecord]:
    def start(run: RunSpec) -> None:
        opened.begin(run)
        progress.started(run)
        catalogue.notify("ftbench_run_started", spec=run)

    def run(run: RunSpec) -> RunRecord:
        return run_one(
            run,
            catalogue,
            device=device,
            timeout_seconds=spec.timeout_seconds,
            on_step=progress.stepped,
        )

    return executors.run_serially(pending, run, on_start=start)


def why_new(run: RunSpec, records: Iterable[RunRecord]) -> dict[str, tuple[Any, Any]]:
    """Return the fields (old, new) in which ``run`` differs from the nearest stored run.

    Nearest is the one with the fewest differences among those of the same strategy, size and seed.
    An empty result means that there is none, and :func:`reasons` says which of the three is new.
    """
    new = flatten(run.identity())
    same = [
        old
        for old in (flatten(record.identity) for record in records)
        if all(old.get(name) == new[name] for name in _POINT)
    ]
    differing = [
        {n: (old.get(n), new.get(n)) for n in sorted(old | new) if old.get(n) != new.get(n)}
        for old in same
    ]
    return min((d for d in differing if d), key=len, default={})


_POINT = ("strategy.name", "size", "seed")


def reasons(plan: Plan, records: list[RunRecord]) -> Counter[str]:
    """Return why pending runs are pending, one line a reason, with how many runs it holds for."""
    stored = [flatten(record.identity) for record in records]
    counts: Counter[str] = Counter()
    for run in plan.pending:
        if run.key in plan.done:
            counts[f"ended as {plan.done[run.key].status}, will be tried again"] += 1
            continue
        changed = why_new(run, records)
        if changed:
            texts = (f"{n}: {_shown(old)} → {_shown(new)}" for n, (old, new) in changed.items())
            counts[", ".join(texts)] += 1
            continue
        point = flatten(run.identity())
        unseen = [n for n in _POINT if all(old.get(n) != point[n] for old in stored)]
        counts[_unseen(unseen, point) if stored else "nothing is stored yet"] += 1
    return counts


def _unseen(names: Sequence[str], point: Mapping[str, Any]) -> str:
    if not names:
        return "this strategy, size and seed were not combined yet"
    return ", ".join(f"{name}: {_shown(point[name])} is new" for name in names)


def _shown(value: object) -> str:
    return "none" if value is None else repr(value)


def describe(plan: Plan) -> str:
    """Return how much of a plan is done, left to do, and left alone after a failure."""
    statuses = Counter(record.status for record in plan.done.values())
    pending = {run.key for run in plan.pending}
    alone = Counter(
        record.status
        for key, record in plan.done.items()
        if record.status != "ok" and key not in pending
    )
    # The device is no part of a run's key, so a sweep goes on elsewhere; that must not be a secret.
    elsewhere = Counter(
        record.environment.get("device_type", "")
        for record in plan.done.values()
        if record.status == "ok" and plan.device_type
    )
    elsewhere.pop(plan.device_type, None)
    where = "".join(f", {count} of them on {device}" for device, count in elsewhere.items())
    parts = [f"{len(plan.runs)} runs", f"{statuses['ok']} already done{where}"]
    parts += [
        f"{count} {status}, not tried again (--retry {status})" for status, count in alone.items()
    ]
    return ", ".join([*parts, f"{len(plan.pending)} to run"])


def estimate_seconds(plan: Plan, records: list[RunRecord]) -> float | None:
    """Return the seconds that the pending runs should take, from finished ones; None: unknown.

    Each run counts as the mean of its strategy's finished runs with the same recipe.
    """
    known: dict[str, list[float]] = {}
    for record in records:
        if record.status == "ok":
            known.setdefault(_estimate_group(record.identity), []).append(record.run_seconds)
    total = 0.0
    for run in plan.pending:
        seconds = known.get(_estimate_group(run.identity()))
        if not seconds:
            return None
        total += sum(seconds) / len(seconds)
    return total


def probe_seconds(plan: Plan, spec: SweepSpec, catalogue: Catalogue) -> float:
    """Return the seconds that the pending runs should take, from short trials of each strategy.

    Each strategy trains for a few steps on the first run's rows, and nothing is stored.
    """
    steps, device = 6, resolve_device(spec.device)
    seconds: dict[str, float] = {}
    by_strategy: dict[str, RunSpec] = {}
    for run in plan.pending:
        by_strategy.setdefault(run.strategy.label, run)
    # Warm-up: the first run also loads the data.
    _probe(next(iter(by_strategy.values())), 1, catalogue, device)
    for label, run in by_strategy.items():
        record = _probe(run, steps, catalogue, device)
        per_step = float(record.costs.get("step_seconds") or 0.0)
        total = Recipe.model_validate(run.recipe).total_steps(run.size)
        seconds[label] = record.run_seconds + per_step * (total - steps)
    return sum(seconds[run.strategy.label] for run in plan.pending)


def _probe(run: RunSpec, steps: int, catalogue: Catalogue, device: str) -> RunRecord:
    recipe = {**run.recipe, "steps": steps, "epochs": None}
    return run_one(replace(run, recipe=recipe), catalogue, device=device)


def _estimate_group(identity: Mapping[str, Any]) -> str:
    return str((identity["strategy"], identity["recipe"], identity["backbone"]["name"]))


def _one(catalogue: Catalogue, kind: Kind, text: str) -> tuple[Task | BackboneFamily, ComponentId]:
    references = parse_reference(text)
    if len(references) > 1:
        raise SpecError(f"{kind} '{text}' is a grid; a sweep has one {kind}")
    with _naming(catalogue, kind, references[0][0]):
        component = cast("Task | BackboneFamily", catalogue.build(kind, *references[0]))
        return component, catalogue.identify(component, component.fingerprint())


@contextlib.contextmanager
def _naming(catalogue: Catalogue, kind: Kind, name: str) -> Iterator[None]:
    """Turn whatever a plugin raises while the grid is expanded into an error that names it."""
    try:
        yield
    except FtbenchError:
        raise
    except (Exception, SystemExit) as error:
        owner = catalogue.find(kind, name).owner
        raise PluginError(
            f"the {kind} '{name}' of {owner}: {type(error).__name__}: {error}"
        ) from error


def _strategies(catalogue: Catalogue, texts: Sequence[str]) -> list[ComponentId]:
    found: dict[tuple[str, str], ComponentId] = {}
    for text in texts:
        for name, options in parse_reference(text):
            with _naming(catalogue, "strategy", name):
                strategy = catalogue.identify(catalogue.build("strategy", name, options))
            point = (name, str(strategy.options))
            if point in found:
                raise SpecError(f"strategy '{text}' is in the spec twice, as '{strategy.label}'")
            found[point] = strategy
    return list(found.values())


def _sizes(spec: SweepSpec, task: Task) -> list[int]:
    strata = pool_strata(task)
    sizes = list(dict.fromkeys(subsets.resolve_size(size, len(strata)) for size in spec.sizes))
    for size in sizes:
        subsets.check_size(strata, size)
        for seed in spec.seeds if spec.recipe.patience is not None else ():
            rows = subsets.draw(strata, size, seed)
            subsets.split_validation(strata[rows], spec.recipe.validation_share, seed)
    return sizes
