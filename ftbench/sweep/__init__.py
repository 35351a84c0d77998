"""Expand the grid, skip what is done, hand runs to an executor, store records."""

from ftbench.sweep.drive import Progress, run_sweep
from ftbench.sweep.estimate import estimate_seconds, probe_seconds
from ftbench.sweep.grid import check_test_set, expand
from ftbench.sweep.plan import DEFAULT_RETRY, Plan, describe, make_plan, parse_statuses
from ftbench.sweep.why import StoredRuns, reasons, why_new

__all__ = [
    "DEFAULT_RETRY",
    "Plan",
    "Progress",
    "StoredRuns",
    "check_test_set",
    "describe",
    "estimate_seconds",
    "expand",
    "make_plan",
    "parse_statuses",
    "probe_seconds",
    "reasons",
    "run_sweep",
    "why_new",
]
