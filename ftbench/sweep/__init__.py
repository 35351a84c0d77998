"""Expand the grid, skip what is done, hand runs to an executor, store records."""

from ftbench.sweep.decoding import Undecoded, undecoded
from ftbench.sweep.drive import Progress, run_sweep
from ftbench.sweep.estimate import Estimator, TimeLeft, estimate_seconds, probe_seconds
from ftbench.sweep.grid import expand
from ftbench.sweep.plan import (
    DEFAULT_RETRY,
    Plan,
    Shard,
    describe,
    make_plan,
    parse_shard,
    parse_statuses,
    plan_for,
)
from ftbench.sweep.why import StoredRuns, reasons, why_new

__all__ = [
    "DEFAULT_RETRY",
    "Estimator",
    "Plan",
    "Progress",
    "Shard",
    "StoredRuns",
    "TimeLeft",
    "Undecoded",
    "describe",
    "estimate_seconds",
    "expand",
    "make_plan",
    "parse_shard",
    "parse_statuses",
    "plan_for",
    "probe_seconds",
    "reasons",
    "run_sweep",
    "undecoded",
    "why_new",
]
