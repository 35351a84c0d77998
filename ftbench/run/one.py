"""A RunSpec is carried out, and whatever becomes of it is a RunRecord."""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from ftbench import environment, ops
from ftbench.outcomes import Keep
from ftbench.plugins import Catalogue
from ftbench.records import RunRecord, RunSpec, Status, labels_of, utc_now
from ftbench.run.failures import failure
from ftbench.run.isolation import isolated_execution
from ftbench.run.work import Parts, carry_out, make_parts

OnStep = Callable[[int, int], None]


def run_one(
    spec: RunSpec,
    catalogue: Catalogue,
    *,
    device: str,
    timeout_seconds: float | None = None,
    on_step: OnStep | None = None,
    shares_device: bool = False,
    shares_process: bool = False,
    keep: Keep = "outcomes",
) -> RunRecord:
    """Return the record of one run, whatever becomes of it; only an interrupt passes through.

    ``device`` is ``cpu`` or ``cuda:N``. ``shares_device`` and ``shares_process`` say whether other
    runs are in progress there meanwhile; ``keep`` says what of its results comes with the record,
    in ``record.outcomes``. The global state of torch (generators, threads,
    deterministic mode) is as before afterwards.
    """
    started = time.perf_counter()
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    record = _begun(spec)
    try:
        record = replace(record, environment=_environment(spec, catalogue, device))
        with isolated_execution(spec, device):
            carry = functools.partial(
                carry_out,
                deadline=deadline,
                on_step=on_step,
                shares_process=shares_process,
                keep=keep,
            )
            result = _with_second_try(lambda: make_parts(spec, catalogue, device), carry)
        result["protocol"]["shared_device"] = shares_device
        record = replace(record, **result)
    # SystemExit too: a strategy must not end the sweep.
    except (Exception, SystemExit) as error:
        record = replace(record, **failure(error))
    return replace(record, run_seconds=time.perf_counter() - started)


def _with_second_try(
    make: Callable[[], Parts], carry: Callable[[Parts], dict[str, Any]]
) -> dict[str, Any]:
    """Return what a run comes to; one that a GPU has no memory for is tried in smaller parts.

    Once, with twice as many parts of a batch and the same batch: the record says so. A strategy
    that refuses accumulation, and a batch that has no more rows to part, are not tried again.
    """
    parts = make()
    rows = min(parts.recipe.batch_size, parts.spec.size)
    count = min(2 * parts.recipe.accumulation, rows)
    try:
        return carry(parts)
    except torch.OutOfMemoryError:
        if count <= parts.recipe.accumulation or "accumulation" in parts.strategy.refuses:
            raise
    # Outside the handler, whose traceback holds what the first try held.
    del parts
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    again = make()
    smaller = again.recipe.model_copy(update={"accumulation": count})
    return carry(replace(again, recipe=smaller))


def _begun(spec: RunSpec) -> RunRecord:
    return RunRecord(
        key=spec.key,
        status="ok",
        message="",
        identity=spec.identity(),
        labels=labels_of(spec),
        started_at=utc_now(),
        environment=environment.machine(),
    )


def _environment(spec: RunSpec, catalogue: Catalogue, device: str) -> dict[str, Any]:
    return {
        **environment.machine(),
        "operators": ops.implementation().serving(torch.device(device)),
        "device": environment.device_name(device),
        "device_type": device.partition(":")[0],
        "strategy_owner": str(catalogue.find("strategy", spec.strategy.name).owner),
    }


_LOST_CONTEXT = ("CUDA error", "CUBLAS_STATUS_", "CUDNN_STATUS_", "AcceleratorError")


@dataclass(frozen=True)
class RunWork:
    """What an executor does with each run, in this process or another.

    Pickled, it takes the plugins along that are not installed, and finds the installed ones where
    it is unpickled.
    """

    timeout_seconds: float | None
    shares_device: bool
    shares_process: bool
    catalogue: Catalogue
    keep: Keep = "outcomes"

    def __call__(self, run: RunSpec, on_step: OnStep, place: str) -> RunRecord:
        """Return the record of ``run``, carried out on the device ``place``."""
        return run_one(
            run,
            self.catalogue,
            device=place,
            timeout_seconds=self.timeout_seconds,
            on_step=on_step,
            shares_device=self.shares_device,
            shares_process=self.shares_process,
            keep=self.keep,
        )

    def spoils(self, record: RunRecord) -> bool:
        """Return whether a GPU refuses all work of the process after this: its context is lost."""
        found = f"{record.message}{record.traceback}"
        return record.status != "ok" and any(sign in found for sign in _LOST_CONTEXT)

    def lost(self, run: RunSpec, place: str, status: Status, message: str) -> RunRecord:
        """Return the record of a run that was carried out on ``place`` and left none."""
        found = replace(_begun(run), status=status, message=message)
        try:
            return replace(found, environment=_environment(run, self.catalogue, place))
        except Exception:  # what is known of the machine will do
            return found
