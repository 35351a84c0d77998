"""Records → the tidy DataFrame, one row a run; its columns are documented in docs/results.md."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from ftbench.environment import PACKAGES
from ftbench.records import RunRecord, identity_key

# As a record's environment names them.
_ENVIRONMENT = (
    *(*PACKAGES, "python", "cuda", "processor", "platform", "commit"),
    *("operators", "strategy_owner"),
)


def condition_of(identity: Mapping[str, Any]) -> str:
    """Return 12 hex digits shared by the runs that one table may compare.

    They are the hash of everything in the identity but strategy, size and seed.
    """
    shared = {k: v for k, v in identity.items() if k not in ("strategy", "size", "seed")}
    return identity_key(shared)[:12]


def to_frame(records: Iterable[RunRecord]) -> pd.DataFrame:
    """Return one row a record, with the columns in a fixed order; scores missing are NaN."""
    records = list(records)
    rows = [_sections(record) for record in records]
    if not rows:
        return pd.DataFrame(columns=["task", "backbone", "strategy", "size", "seed", "status"])
    # Section by section, since a run without a source task or without scores has fewer columns.
    columns = dict.fromkeys(name for part in zip(*rows, strict=True) for s in part for name in s)
    flat = [{name: value for section in row for name, value in section.items()} for row in rows]
    order = ["task", "backbone", "condition", "strategy", "strategy_version", "size", "seed"]
    frame = pd.DataFrame(flat, columns=list(columns)).sort_values(order, kind="stable")
    frame = frame.reset_index(drop=True)
    # How each task's scores read, for a table that is made where the task is not installed.
    frame.attrs["metrics"] = {r.labels["task"]: list(r.metrics) for r in records if r.metrics}
    # What a score is, and not a cost or a count, where no metric describes the column.
    frame.attrs["scores"] = sorted({name for record in records for name in record.scores})
    return frame


def _sections(record: RunRecord) -> tuple[Mapping[str, Any], ...]:
    """Return a record's columns: what ran and how it ended, scores, costs, protocol, identity."""
    identity, environment = record.identity, record.environment
    return (
        {
            **{name: record.labels[name] for name in ("task", "backbone", "strategy")},
            "size": identity["size"],
            "seed": identity["seed"],
            "status": record.status,
            "message": record.message,
        },
        record.scores,
        record.costs,
        {name: environment.get(name, "") for name in ("device", "device_type")},
        record.protocol,
        {f"recipe_{name}": value for name, value in identity["recipe"].items()},
        {
            "harness": identity["harness"],
            "threads": identity["threads"],
            "deterministic": identity["deterministic"],
            "strategy_name": identity["strategy"]["name"],
            "strategy_version": identity["strategy"]["version"],
            "strategy_options": json.dumps(identity["strategy"]["options"], sort_keys=True),
            "strategy_owner": identity["strategy"]["owner"],
            "task_owner": identity["task"]["owner"],
            "task_version": identity["task"]["version"],
            "task_fingerprint": identity["task"]["fingerprint"],
            "backbone_owner": identity["backbone"]["owner"],
            "backbone_version": identity["backbone"]["version"],
            "backbone_fingerprint": identity["backbone"]["fingerprint"],
        },
        {f"env_{name.replace('-', '_')}": environment.get(name, "") for name in _ENVIRONMENT},
        {
            "started_at": record.started_at,
            "run_seconds": record.run_seconds,
            "condition": condition_of(identity),
            "key": record.key,
        },
    )
