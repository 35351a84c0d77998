"""Frozen records: what a run is (RunSpec) and what it left (RunRecord)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal, get_args

SCHEMA = 1  # the version of a line in runs.jsonl
HARNESS = "1"
"""Raised when the training loop, the draws or the scores change: it is part of every run's key."""

COMPONENTS = ("task", "backbone", "strategy")
RESERVED_SCORES = frozenset(
    {
        *("task", "backbone", "strategy", "size", "seed", "status", "message", "key", "condition"),
        *("source_accuracy_before", "source_accuracy_after", "device", "device_type"),
        *("train_seconds", "train_cpu_seconds", "step_seconds", "seconds_saved_by_cache"),
        "peak_memory_bytes",
        *("trainable_parameters", "total_parameters", "run_seconds", "started_at"),
        *("subset_fingerprint", "training_rows", "validation_rows", "test_rows", "source_rows"),
        *("batch_size", "steps", "planned_steps", "best_step", "validation_loss", "final_loss"),
        *("norm_statistics", "tuning_trials", "shared_device", "threads", "deterministic"),
        *("harness", "strategy_name", "strategy_options", "metrics"),
        *(f"{part}_{of}" for part in COMPONENTS for of in ("owner", "version", "fingerprint")),
    }
)
"""Columns of the results that no score of a task may be named like."""
RESERVED_PREFIXES = ("recipe_", "env_", "_")

Status = Literal["ok", "failed", "diverged", "out-of-memory", "timeout", "crashed"]
STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True)
class ComponentId:
    """A named plugin part as one run used it: everything about it that can change a score."""

    name: str
    version: str
    options: Mapping[str, Any]  # all of them, defaults resolved
    fingerprint: str = ""  # SHA-256 of its data or weights, where it has any
    label: str = field(default="", compare=False)  # the name and what differs from the defaults
    owner: str = ""  # the distribution that brought it

    def identity(self) -> dict[str, Any]:
        """Return the fields that take part in a run's key."""
        return {
            "name": self.name,
            "owner": self.owner,
            "version": self.version,
            "options": dict(self.options),
            "fingerprint": self.fingerprint,
        }


@dataclass(frozen=True)
class RunSpec:
    """One point of the grid."""

    task: ComponentId
    backbone: ComponentId
    strategy: ComponentId
    recipe: Mapping[str, Any]
    size: int  # labels in all, those held back for validation included
    seed: int
    threads: int = 1
    deterministic: bool = False

    def identity(self) -> dict[str, Any]:
        """Return, as plain JSON values, everything that can change this run's scores."""
        return {
            "harness": HARNESS,
            "task": self.task.identity(),
            "backbone": self.backbone.identity(),
            "strategy": self.strategy.identity(),
            "recipe": dict(self.recipe),
            "size": self.size,
            "seed": self.seed,
            "threads": self.threads,
            "deterministic": self.deterministic,
        }

    @cached_property
    def key(self) -> str:
        """The SHA-256 of the identity, as 64 hexadecimal digits."""
        return identity_key(self.identity())

    def describe(self) -> str:
        """Return a short name for progress lines and messages."""
        return f"{self.strategy.label} at size {self.size}, seed {self.seed}"


@dataclass(frozen=True)
class RunRecord:
    """What one attempt at a run left behind; one line of ``runs.jsonl``."""

    key: str
    status: Status
    message: str  # empty where the status is ok
    identity: Mapping[str, Any]
    labels: Mapping[str, str]  # task, backbone and strategy as a table shows them
    scores: Mapping[str, float] = field(default_factory=dict)
    costs: Mapping[str, float | None] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)  # what the run used, subset included
    metrics: Sequence[Mapping[str, Any]] = field(
        default_factory=list
    )  # how the task's scores read: ftbench.Metric
    environment: Mapping[str, Any] = field(default_factory=dict)
    traceback: str = ""  # of an error that was not written for the user
    started_at: str = ""  # ISO 8601, UTC
    run_seconds: float = 0.0  # wall time of the whole attempt, evaluation included

    def to_json(self) -> str:
        """Return the record as one line of JSON, without the newline."""
        # NaN has no JSON spelling, and a record must be readable by every JSON reader.
        return json.dumps({"schema": SCHEMA, **self.__dict__}, allow_nan=False)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunRecord:
        """Return the record that ``values`` spells; TypeError where one is missing or wrong."""
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        record = cls(**known)
        problem = _record_problem(record)
        if problem:
            raise TypeError(problem)
        return record


def _record_problem(record: RunRecord) -> str:
    """Return what keeps a record from being read by a report, ``""`` for nothing."""
    if record.status not in STATUSES:
        return f"there is no status {record.status!r}"
    if not (
        isinstance(record.labels, Mapping)
        and isinstance(record.identity, Mapping)
        and all(isinstance(record.labels.get(part), str) for part in COMPONENTS)
        and all(_keys(record.identity.get(part)) >= _COMPONENT for part in COMPONENTS)
        and all(isinstance(record.identity.get(name), int) for name in ("size", "seed"))
        and _keys(record.identity) >= {"harness", "threads", "deterministic"}
        and isinstance(record.identity.get("recipe"), Mapping)
    ):
        return "the labels or the identity are not those of a run"
    sections = (record.scores, record.costs, record.protocol, record.environment)
    if not all(isinstance(section, Mapping) for section in sections):
        return "scores, costs, protocol and environment must be mappings"
    if not all(isinstance(value, int | float) for value in record.scores.values()):
        return "a score is not a number"
    if not isinstance(record.metrics, list) or not all(
        _keys(metric) >= {"name", "title"} for metric in record.metrics
    ):
        return "metrics must be a list of mappings with name and title"
    return ""


_COMPONENT = {"name", "owner", "version", "options", "fingerprint"}


def _keys(value: object) -> set[str]:
    return set(value) if isinstance(value, Mapping) else set()


def utc_now() -> str:
    """Return the time as ISO 8601 in UTC with milliseconds; equal lengths sort by time."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def labels_of(spec: RunSpec) -> dict[str, str]:
    """Return the display names of a run's three components."""
    return {
        "task": spec.task.label,
        "backbone": spec.backbone.label,
        "strategy": spec.strategy.label,
    }


def identity_key(identity: Mapping[str, Any]) -> str:
    """Return the SHA-256 of an identity's canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one level with dotted names: ``{"recipe.steps": 150, ...}``."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat
