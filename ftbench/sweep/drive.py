"""Run what is missing of a grid, and store each record before the next run starts."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ftbench import executors, ops, plugins, store
from ftbench.config import SweepSpec, to_toml
from ftbench.errors import SpecError, StoreError
from ftbench.plugins import Catalogue
from ftbench.records import RunRecord, RunSpec, Status
from ftbench.results import write_derived
from ftbench.run import resolve_device, run_one
from ftbench.sweep.grid import check_test_set, expand
from ftbench.sweep.plan import DEFAULT_RETRY, Plan, check_statuses, make_plan

_log = logging.getLogger("ftbench")


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
) -> Plan:
    """Run what is missing of the grid into the directory ``out``; return the plan as it ends.

    Each record is on disk before the next run starts; a run of the plan that is not in its ``done``
    has none. On an interrupt the derived files are written and KeyboardInterrupt passes on.
    FtbenchError where nothing could start, StoreError where the directory is taken away. Derived
    files that cannot be written are a warning: the records have everything.
    """
    if not isinstance(spec, SweepSpec):
        raise SpecError(
            f"run_sweep() wants an ftbench.SweepSpec, got {type(spec).__name__}; make one of it by "
            "ftbench.SweepSpec(...) or ftbench.load_spec(path)"
        )
    retry = check_statuses(retry)
    catalogue = plugins.load_catalogue() if catalogue is None else catalogue
    progress = progress or Progress()
    runs = expand(spec, catalogue)
    check_test_set(spec, catalogue)
    device = resolve_device(spec.device)
    device_type = device.partition(":")[0]
    # Whole, since a strategy may change the working directory.
    directory = Path(os.path.abspath(out))
    # Compiles on first use, so before the clock of any run starts; and what the environment asks
    # for in vain is said before anything is planned or written.
    ops.implementation()
    with store.Store(directory) as opened:
        opened.write_spec(to_toml(spec))
        plan = make_plan(runs, opened.records(), retry, device_type=device_type)
        progress.planned(plan)
        try:
            for record in _records(plan.pending, opened, catalogue, device, spec, progress):
                opened.append(record)
                catalogue.notify("ftbench_run_finished", record=record)
                progress.finished(record)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                opened.check_in_place()  # where it is not, that is the error to read
                opened.forget_running()  # stopped on purpose, not crashed
            with contextlib.suppress(StoreError):  # the first error is the one to read
                opened.check_in_place()
                write_derived(directory)  # as stored: it may have come in the middle of append()
            raise
        opened.check_in_place()
        try:
            write_derived(directory, opened.records())
        except StoreError as error:
            progress.warned(str(error))
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
