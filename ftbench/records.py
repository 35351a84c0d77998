"""Frozen records: what a run is (RunSpec) and what it left (RunRecord)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal, get_args

SCHEMA = 1  # the version of a line in runs.jsonl

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

    def identity(self) -> dict[str, Any]:
        """Return the fields that take part in a run's key."""
        return {
            "name": self.name,
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
    environment: Mapping[str, Any] = field(default_factory=dict)
    started_at: str = ""  # ISO 8601, UTC
    run_seconds: float = 0.0  # wall time of the whole attempt, evaluation included

    def to_json(self) -> str:
        """Return the record as one line of JSON, without the newline."""
        # NaN has no JSON spelling, and a record must be readable by every JSON reader.
        return json.dumps({"schema": SCHEMA, **self.__dict__}, allow_nan=False)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunRecord:
        """Return the record that ``values`` spells; TypeError where fields are missing."""
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        record = cls(**known)
        if record.status not in STATUSES or not (
            {"task", "backbone", "strategy"} <= set(record.labels)
            and set(RunSpec.__dataclass_fields__) <= set(record.identity)
        ):
            raise TypeError("the fields are not those of a run")
        return record


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
