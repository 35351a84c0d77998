"""Records → the tidy DataFrame, one row a run; its columns are documented in docs/results.md."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from ftbench import columns
from ftbench.metric import CLASSIFICATION, METRIC_FIELDS
from ftbench.recipe import later_defaults
from ftbench.records import COMPONENTS, RunRecord, identity_key

_MEASURED: tuple[columns.Section, ...] = ("scores", "costs", "protocol")

# What a report computes with, besides each score, cost and metric that a record has.
NUMBERS = frozenset(
    {
        *(m.name for m in CLASSIFICATION),
        *("run_seconds",),
        *(c.name for section in _MEASURED for c in columns.of(section) if c.is_number),
    }
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
    names = dict.fromkeys(n for section in rows[0] for row in rows for n in row[section])
    known = {n for row in rows for s, part in row.items() if s not in _MEASURED for n in part}
    numbers = _numbers(records) - known
    order = ["task", "backbone", "condition", "strategy", "strategy_version", "size", "seed"]
    frame = pd.DataFrame([_joined(row) for row in rows], columns=list(names))
    for name, kind in frame.dtypes.items():
        if pd.api.types.is_float_dtype(kind):
            frame[name] = frame[name].where(np.isfinite(frame[name]))
        elif name in numbers and not pd.api.types.is_integer_dtype(kind):
            frame[name] = _as_numbers(frame[name])
        elif pd.api.types.is_object_dtype(kind):
            frame[name] = _of_one_type(frame[name])
    frame = frame.sort_values(order, kind="stable").reset_index(drop=True)
    # How each task's scores read, for a table that is made where the task is not installed.
    frame.attrs["metrics"] = {
        record.labels["task"]: [
            {name: value for name, value in metric.items() if name in METRIC_FIELDS}
            for metric in record.metrics
        ]
        for record in records
        if record.metrics
    }
    # What a score is, and not a cost or a count, where no metric describes the column.
    frame.attrs["scores"] = sorted({name for record in records for name in record.scores})
    return frame


def _numbers(records: Iterable[RunRecord]) -> set[str]:
    """Return the columns in which what is no number is missing."""
    found = set(NUMBERS)
    for record in records:
        found.update(record.scores, record.costs, (metric["name"] for metric in record.metrics))
    return found


def _joined(sections: Mapping[columns.Section, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sections of a row as one; what a run measured never hides what it was.

    Where scores, costs and protocol share a name, the first of them has it.
    """
    measured = [sections[section] for section in reversed(_MEASURED)]
    others = [part for section, part in sections.items() if section not in _MEASURED]
    return {n: value for section in (*measured, *others) for n, value in section.items()}


def _of_one_type(column: pd.Series[Any]) -> pd.Series[Any]:
    """Return a column that can be sorted and stored: as text where its values are of many types.

    Records of other versions, and edited ones, may hold anything.
    """
    present = column[column.notna()]
    types = {type(value) for value in present}
    if len(types) == 1 and types <= {str, bool}:
        return column
    as_text = column.astype(object).where(column.isna(), column.map(_text))
    return as_text if types else column


def _as_numbers(column: pd.Series[Any]) -> pd.Series[Any]:
    """Return a column as floats, NaN where there is no finite number."""
    if not column.notna().any():
        return column
    return column.map(_number).astype("float64")


def _number(value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) <= sys.float_info.max else math.nan


def _text(value: Any) -> str:
    """Return a value of JSON as text; a string as it is, ``""`` for nothing."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _sections(record: RunRecord) -> dict[columns.Section, Mapping[str, Any]]:
    """Return a record's values by section, in the order of the columns."""
    identity = record.identity
    environment = {n.replace("-", "_"): value for n, value in record.environment.items()}
    strategy = identity["strategy"]
    found: dict[columns.Section, Mapping[str, Any]] = {
        "run": {
            **record.labels,
            **{name: identity[name] for name in ("size", "seed")},
            **{name: getattr(record, name) for name in ("status", "message")},
        },
        "scores": record.scores,
        "costs": record.costs,
        "device": environment,
        "protocol": record.protocol,
        "recipe": {
            f"recipe_{name}": _part_label(record, name, value) if isinstance(value, dict) else value
            for name, value in {**later_defaults(), **identity["recipe"]}.items()
        },
        "identity": {
            **identity,
            "strategy_name": strategy["name"],
            "strategy_options": json.dumps(strategy["options"], sort_keys=True),
        },
        "components": {
            f"{part}_{of}": _text(identity[part].get(of))
            for part in COMPONENTS
            for of in ("owner", "version", "fingerprint", "source")
        },
        "environment": {f"env_{name}": value for name, value in environment.items()},
        "attempt": {**record.__dict__, "condition": condition_of(identity)},
    }
    # What a later or earlier version measured is shown as well.
    open_ended = (*_MEASURED, "recipe")
    return {
        section: values if section in open_ended else _declared(section, values)
        for section, values in found.items()
    }


def _part_label(record: RunRecord, kind: str, identity: Mapping[str, Any]) -> str:
    """Return how tables show a part of the recipe."""
    return record.labels.get(kind, "") or _text(identity.get("name"))


def _declared(section: columns.Section, values: Mapping[str, Any]) -> dict[str, Any]:
    return {column.name: values.get(column.name, "") for column in columns.of(section)}
