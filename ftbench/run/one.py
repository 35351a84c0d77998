"""A RunSpec is carried out, and whatever becomes of it is a RunRecord."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from ftbench import environment, ops
from ftbench.plugins import Catalogue
from ftbench.records import RunRecord, RunSpec, labels_of, utc_now
from ftbench.run.failures import failure
from ftbench.run.isolation import isolated_execution
from ftbench.run.work import carry_out, make_parts

OnStep = Callable[[int, int], None]


def run_one(
    spec: RunSpec,
    catalogue: Catalogue,
    *,
    device: str,
    timeout_seconds: float | None = None,
    on_step: OnStep | None = None,
) -> RunRecord:
    """Return the record of one run, whatever becomes of it; only an interrupt passes through.

    ``device`` is ``cpu`` or ``cuda:N``. The global state of torch (generators, threads,
    deterministic mode) is as before afterwards.
    """
    started = time.perf_counter()
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    record = RunRecord(
        key=spec.key,
        status="ok",
        message="",
        identity=spec.identity(),
        labels=labels_of(spec),
        started_at=utc_now(),
        environment=environment.machine(),
    )
    try:
        record = replace(record, environment=_environment(spec, catalogue, device))
        with isolated_execution(spec, device):
            result = carry_out(make_parts(spec, catalogue, device), deadline, on_step)
        record = replace(record, **result)
    # SystemExit too: a strategy must not end the sweep.
    except (Exception, SystemExit) as error:
        record = replace(record, **failure(error))
    return replace(record, run_seconds=time.perf_counter() - started)


def _environment(spec: RunSpec, catalogue: Catalogue, device: str) -> dict[str, Any]:
    return {
        **environment.machine(),
        "operators": ops.implementation().serving(torch.device(device)),
        "device": environment.device_name(device),
        "device_type": device.partition(":")[0],
        "strategy_owner": str(catalogue.find("strategy", spec.strategy.name).owner),
    }
