"""``ftbench sweep``: flags → spec, the run with its progress, the table."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from ftbench import config, ops
from ftbench import sweep as sweeps
from ftbench.cli import tables
from ftbench.cli.progress import make_progress, readable_seconds
from ftbench.component import split_references
from ftbench.config import SweepSpec
from ftbench.errors import SpecError
from ftbench.executors import Cluster
from ftbench.images import images_folder, megabytes, reporting
from ftbench.plugins import load_catalogue
from ftbench.records import Status
from ftbench.sweep import Shard, parse_shard
from ftbench.sweep.places import WorkerCount, executor_for, parse_workers


class Terminated(KeyboardInterrupt):
    """SIGTERM, by which schedulers and containers end a process: the sweep is left as by Ctrl-C."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Raise Terminated inside where this process is told to end."""

    def end(number: int, frame: object) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread hears of signals
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def overrides(
    *,
    tasks: str | None,
    backbones: str | None,
    strategies: str | None,
    sizes: str | None,
    seeds: str | None,
    num_seeds: int | None,
    steps: int | None,
    device: str | None,
    keep: str | None,
    settings: Sequence[str],
) -> dict[str, Any]:
    """Return the spec keys that flags set; a flag wins over ``--set``."""
    if seeds is not None and num_seeds is not None:
        raise SpecError("--seeds and --num-seeds both choose the seeds; give one of them")
    values: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    for text in settings:
        path, value = config.parse_assignment(text)
        if len(path) == 2 and path[0] == "recipe":
            recipe[path[1]] = value
        elif len(path) == 1 and path[0] != "recipe":
            values[path[0]] = value
        else:
            raise SpecError(f"--set '{text}': keys are KEY or recipe.KEY")
    flags = {
        "tasks": None if tasks is None else split_references(tasks),
        "backbones": None if backbones is None else split_references(backbones),
        "strategies": None if strategies is None else split_references(strategies),
        "sizes": None if sizes is None else config.parse_sizes(sizes),
        "seeds": None if seeds is None else config.parse_seeds(seeds),
        "device": device,
        "keep": keep,
    }
    values.update({name: value for name, value in flags.items() if value is not None})
    if num_seeds is not None:
        values["seeds"] = list(range(num_seeds))
    if steps is not None:
        recipe["steps"] = steps
    return {**values, "recipe": recipe} if recipe else values


def sweep(
    path: Path | None,
    changes: dict[str, Any],
    out: Path,
    *,
    retry: str | None,
    workers: str,
    runs_per_gpu: int = 1,
    cluster: Cluster | None = None,
    shard: str | None,
    dry_run: bool,
    quick: bool,
) -> int:
    """Run or plan a sweep; return the exit status: 1 where a run of the grid did not end well."""
    spec = config.load_spec(path, changes, defaults=config.QUICK if quick else None)
    count, part = parse_workers(workers), None if shard is None else parse_shard(shard)
    statuses = sweeps.DEFAULT_RETRY if retry is None else sweeps.parse_statuses(retry)
    tables.choose_format(None)  # before the training: a conflict of formats is known at once
    progress = make_progress()
    results = out if part is None else part.folder(out)
    try:
        if dry_run:
            with reporting(progress.images):
                _print_plan(spec, out, statuses, count, runs_per_gpu, cluster, part)
            return 0
        with terminable(), progress, reporting(progress.images):
            plan = sweeps.run_sweep(
                spec,
                out,
                retry=statuses,
                progress=progress,
                workers=count,
                runs_per_gpu=runs_per_gpu,
                cluster=cluster,
                shard=part,
            )
    except SpecError as error:
        raise SpecError(f"{path}: {error}" if path else str(error)) from error
    except KeyboardInterrupt as error:
        typer.echo(
            f"\ninterrupted after {progress.runs_finished} runs; every finished run is in "
            f"{results}, the same command goes on from there",
            err=True,
        )
        return 143 if isinstance(error, Terminated) else 130
    tables.show_records(plan.done.values())
    files = ("results.csv", "results.parquet", "runs.jsonl")
    typer.echo(f"\nResults: {', '.join(f'{results}/{name}' for name in files)}")
    if plan.others:
        more = f"{results} holds {plan.others} runs of other plans as well"
        typer.echo(f"{more}: ftbench table {results}")
    for warning in progress.warnings:
        typer.echo(f"warning: {warning}", err=True)
    return _report_failures(plan)


def cluster_of(executor: str, address: str | None, labels: Sequence[str]) -> Cluster | None:
    """Return the Ray cluster that flags name, None for this machine; SpecError for neither."""
    if executor == "local":
        if address or labels:
            raise SpecError("--address and --node-label are of --executor ray")
        return None
    if executor != "ray":
        raise SpecError(f"--executor: expected local or ray, got '{executor}'")
    wanted = {}
    for text in labels:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise SpecError(f"--node-label '{text}': expected NAME=VALUE")
        wanted[name] = value
    return Cluster(address=address or "", labels=wanted)


def _report_failures(plan: sweeps.Plan) -> int:
    """Say which runs did not end well, and which have no record; return 1 where there are any."""
    failed = [record for record in plan.done.values() if record.status != "ok"]
    lost = [run for run in plan.runs if run.key not in plan.done]
    if lost:
        typer.echo(f"\n{len(lost)} of {len(plan.runs)} runs left no record:", err=True)
        _list([plan.name(run) for run in lost], "")
    if failed:
        lines = {f"{r.labels['strategy']}: {r.status}: {r.message}" for r in failed}
        typer.echo(f"\n{len(failed)} of {len(plan.runs)} runs did not end well:", err=True)
        _list(sorted(lines), "; see the message column")
    return 1 if failed or lost else 0


def _list(lines: Sequence[str], where: str) -> None:
    for line in lines[:10]:
        typer.echo(f"  {line}", err=True)
    if len(lines) > 10:
        typer.echo(f"  and {len(lines) - 10} more{where}", err=True)


def _print_plan(
    spec: SweepSpec,
    out: Path,
    retry: Sequence[Status],
    workers: WorkerCount,
    runs_per_gpu: int,
    cluster: Cluster | None,
    shard: Shard | None,
) -> None:
    catalogue = load_catalogue()
    out = out if shard is None else shard.folder(out)
    elsewhere = cluster is not None
    plan = sweeps.plan_for(spec, out, catalogue, retry, shard, elsewhere=elsewhere)
    executor = executor_for(spec, plan.pending, workers, runs_per_gpu=runs_per_gpu, cluster=cluster)
    plan = replace(plan, workers=executor.at_once)
    ops.implementation()  # as in the sweep: what cannot be had is said first
    typer.echo(f"results in {out}")
    typer.echo(_axes(plan))
    typer.echo(sweeps.describe(plan))
    for warning in plan.warnings:
        typer.echo(f"warning: {warning}")
    for reason, count in sweeps.reasons(plan).most_common():
        typer.echo(f"  {count} × {reason}")
    waiting = sweeps.undecoded(plan.pending, catalogue)
    for images in waiting:
        typer.echo(
            f"images of {images.task} are decoded first: {megabytes(images.bytes)} in "
            f"{images_folder()}"
        )
    if plan.pending and waiting:
        typer.echo("estimated time: unknown until the images are decoded")
    elif plan.pending:
        known = sweeps.estimate_seconds(plan)
        if known is None and elsewhere:
            typer.echo("estimated time: unknown until a run has ended on the cluster")
            return
        seconds = sweeps.probe_seconds(plan, spec, catalogue) if known is None else known
        basis = "short trials here" if known is None else "the finished runs"
        side_by_side = f", {plan.workers} runs at a time" if plan.workers > 1 else ""
        typer.echo(f"estimated time: {readable_seconds(seconds)} (from {basis}{side_by_side})")


def _axes(plan: sweeps.Plan) -> str:
    """Return how many there are of each axis of the grid, and which; sizes may be a task's own."""
    axes: dict[str, Iterable[object]] = {
        "tasks": (run.task.label for run in plan.runs),
        "backbones": (run.backbone.label for run in plan.runs),
        "strategies": (run.strategy.label for run in plan.runs),
        "sizes": sorted({run.size for run in plan.runs}),
        "seeds": sorted({run.seed for run in plan.runs}),
    }
    for kind in dict.fromkeys(kind for run in plan.runs for kind in run.parts):
        labels = {run.parts[kind].label: None for run in plan.runs}
        if len(labels) > 1:
            axes[f"{kind}s"] = labels
    parts = []
    for name, values in axes.items():
        different = list(dict.fromkeys(values))
        noun = _SINGULAR[name] if len(different) == 1 else name
        parts.append(f"{len(different)} {noun} ({', '.join(map(str, different))})")
    return " × ".join(parts)


_SINGULAR = {
    "tasks": "task",
    "backbones": "backbone",
    "strategies": "strategy",
    "sizes": "size",
    "seeds": "seed",
}
