"""Run what is missing of a grid, and store each record before the next run starts."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ftbench import ops, plugins, store
from ftbench.config import SweepSpec, to_toml
from ftbench.errors import SpecError, StoreError
from ftbench.executors import Cluster, Executor, Listener
from ftbench.plugins import Catalogue
from ftbench.records import RunRecord, RunSpec, Status
from ftbench.results import write_derived
from ftbench.run import RunWork
from ftbench.sweep.decoding import undecoded
from ftbench.sweep.order import LongestFirst
from ftbench.sweep.places import WorkerCount, executor_for
from ftbench.sweep.plan import DEFAULT_RETRY, Plan, Shard, check_statuses, plan_for

_log = logging.getLogger("ftbench")


class Progress:
    """Listens to a sweep; every method may be overridden. Several runs may be in progress."""

    def planned(self, plan: Plan) -> None:
        """The runs are known and the directory is locked."""

    def started(self, run: RunSpec) -> None:
        """A run begins."""

    def stepped(self, run: RunSpec, step: int, total_steps: int) -> None:
        """A run has taken ``step`` of its steps."""

    def finished(self, record: RunRecord) -> None:
        """A run has ended and its record is on disk."""

    def warned(self, message: str) -> None:
        """Something besides the runs and their records went wrong."""
        _log.warning(message)


def run_sweep(
    spec: SweepSpec,
    out: str | Path,
    *,
    retry: Iterable[Status] | str = DEFAULT_RETRY,
    catalogue: Catalogue | None = None,
    progress: Progress | None = None,
    workers: WorkerCount = 0,
    runs_per_gpu: int = 1,
    cluster: Cluster | None = None,
    shard: Shard | None = None,
) -> Plan:
    """Run what is missing of the grid into the directory ``out``; return the plan as it ends.

    ``workers`` is how many processes carry out runs, ``"auto"`` for one on each GPU or CPU core, 0
    for none but this one. They import the caller's main module, so a script that asks for some
    needs ``if __name__ == "__main__":`` around its own work. With ``"auto"``, ``runs_per_gpu`` runs
    share each GPU. ``cluster`` has them carried out on the nodes of a Ray cluster, ``workers`` of
    them at a time at most. ``shard`` takes one of several equal
    parts of the grid, into a folder of its own in ``out``: :func:`ftbench.merge.merge` joins them.

    The plan carries the records. Each is on disk before the next run starts; a run of the plan that
    is not in its ``done`` has none. On an interrupt the derived files are written and
    KeyboardInterrupt passes on. FtbenchError where nothing could start, StoreError where the
    directory is taken away. Derived files that cannot be written are a warning: the records have
    everything.
    """
    if not isinstance(spec, SweepSpec):
        raise SpecError(
            f"run_sweep() wants an ftbench.SweepSpec, got {type(spec).__name__}; make one of it by "
            "ftbench.SweepSpec(...) or ftbench.load_spec(path)"
        )
    catalogue = plugins.load_catalogue() if catalogue is None else catalogue
    # Whole, since a strategy may change the working directory.
    directory = Path(os.path.abspath(out))
    directory = directory if shard is None else shard.folder(directory)
    elsewhere = cluster is not None
    plan = plan_for(spec, directory, catalogue, check_statuses(retry), shard, elsewhere=elsewhere)
    # Compiles on first use, so before the clock of any run starts; and what the environment asks
    # for in vain is said before anything is planned or written.
    ops.implementation()
    with store.Store(directory, plan.held) as opened:
        opened.write_spec(to_toml(spec))
        drive = _Drive(opened, catalogue, progress or Progress())
        plan = plan.against(opened.records())
        executor = executor_for(
            spec, plan.pending, workers, runs_per_gpu=runs_per_gpu, cluster=cluster
        )
        return drive.run(replace(plan, workers=executor.at_once), spec, executor)


@dataclass(frozen=True)
class _Drive:
    """A sweep under way: who writes, and who is told."""

    opened: store.Store
    catalogue: Catalogue
    progress: Progress

    def run(self, plan: Plan, spec: SweepSpec, executor: Executor) -> Plan:
        """Carry out what is pending; return the plan with all records."""
        work = RunWork(
            timeout_seconds=spec.timeout_seconds,
            shares_device=executor.shares_device,
            shares_process=executor.shares_process,
            catalogue=self.catalogue,
            keep=spec.keep,
        )
        self.progress.planned(plan)
        for warning in plan.warnings:
            self.progress.warned(warning)
        try:
            for images in undecoded(plan.pending, self.catalogue):
                images.decode()
            waiting = LongestFirst(plan)
            runs = waiting if executor.at_once > 1 else plan.pending
            # Closed however it is left: workers must not outlive the lock on the directory.
            with contextlib.closing(executor.map(runs, work, _Announced(self))) as records:
                for record in records:
                    waiting.finished(record)
                    self.opened.append(record)
                    self.catalogue.notify("ftbench_run_finished", record=record)
                    self.progress.finished(record)
        except BaseException as error:
            self._leave(error)
            raise
        self.opened.check_in_place()
        ended = plan.against(self.opened.records())
        try:
            write_derived(self.opened.directory, ended.records)
        except StoreError as error:
            self.progress.warned(str(error))
        return ended

    def _leave(self, error: BaseException) -> None:
        """Write what can be written still; raises nothing but that the directory is gone."""
        if isinstance(error, KeyboardInterrupt):
            self.opened.check_in_place()  # where it is not, that is the error to read
            self.opened.forget_running()  # stopped on purpose, not crashed
        directory = self.opened.directory
        with contextlib.suppress(StoreError):  # the first error is the one to read
            self.opened.check_in_place()
            # As stored: it may have come in the middle of append().
            write_derived(directory, store.read_records(directory))


@dataclass(frozen=True)
class _Announced(Listener):
    """Notes each run before it starts, so that a death in it is known; then tells the others."""

    drive: _Drive

    def started(self, run: RunSpec) -> None:
        self.drive.opened.begin(run)
        self.drive.progress.started(run)
        self.drive.catalogue.notify("ftbench_run_started", spec=run)

    def stepped(self, run: RunSpec, step: int, total_steps: int) -> None:
        self.drive.progress.stepped(run, step, total_steps)
