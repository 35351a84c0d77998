"""Frozen records: what a run is (RunSpec) and what it left (RunRecord)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal, get_args

from ftbench.columns import is_taken
from ftbench.metric import METRIC_FIELDS

SCHEMA = 1  # the version of a line in runs.jsonl
HARNESS = "1"
"""Raised when the training loop, the draws or the scores change: it is part of every run's key."""

COMPONENTS = ("task", "backbone", "strategy")
Status = Literal["ok", "failed", "diverged", "out-of-memory", "timeout", "crashed"]
STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True)
class ComponentId:
    """A named plugin part as one run used it: everything about it that can change a score."""

    name: str
    version: str
    options: Mapping[str, Any]  # all but the places, defaults resolved
    fingerprint: str = ""  # SHA-256 of its data or weights, where it has any
    label: str = field(default="", compare=False)  # the name and what differs from the defaults
    owner: str = ""  # the distribution that brought it
    source: str = ""  # SHA-256 of its code outside ftbench, where it has any
    places: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Options that say where something lies: what lies there has the fingerprint."""

    def identity(self) -> dict[str, Any]:
        """Return the fields that take part in a run's key."""
        identity = {
            "name": self.name,
            "owner": self.owner,
            "version": self.version,
            "options": dict(self.options),
            "fingerprint": self.fingerprint,
        }
        # Left out where empty, so that built-ins keep the keys that they had before there was one.
        return {**identity, "source": self.source} if self.source else identity


@dataclass(frozen=True)
class RunSpec:
    """One point of the grid."""

    task: ComponentId
    backbone: ComponentId
    strategy: ComponentId
    recipe: Mapping[str, Any]  # its settings
    size: int  # labels in all, those held back for validation included
    seed: int
    threads: int = 1
    deterministic: bool = False
    parts: Mapping[str, ComponentId] = field(default_factory=dict)  # of the recipe, by kind

    def identity(self) -> dict[str, Any]:
        """Return, as plain JSON values, everything that can change this run's scores."""
        return {
            "harness": HARNESS,
            "task": self.task.identity(),
            "backbone": self.backbone.identity(),
            "strategy": self.strategy.identity(),
            "recipe": {
                **self.recipe,
                **{kind: part.identity() for kind, part in self.parts.items()},
            },
            "size": self.size,
            "seed": self.seed,
            "threads": self.threads,
            "deterministic": self.deterministic,
        }

    @cached_property
    def key(self) -> str:
        """The SHA-256 of the identity, as 64 hexadecimal digits."""
        before, after = self._around_seed
        text = f'{before},"seed":{json.dumps(self.seed)},{after}'
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def _around_seed(self) -> tuple[str, str]:
        """What stands before the seed in the canonical JSON of the identity, and after it."""
        identity = self.identity()
        before = {name: value for name, value in identity.items() if name < "seed"}
        after = {name: value for name, value in identity.items() if name > "seed"}
        return canonical(before)[:-1], canonical(after)[1:]

    def at_seed(self, seed: int) -> RunSpec:
        """Return the same point of the grid with another seed: of its key, the rest is known."""
        found = object.__new__(RunSpec)  # nothing in it is checked again: grids are large
        found.__dict__.update(self.__dict__, seed=seed, _around_seed=self._around_seed)
        found.__dict__.pop("key", None)
        return found

    def describe(self, parts: Collection[str] = ()) -> str:
        """Return a short name for progress lines and messages, with task and backbone if asked."""
        return describe_run(labels_of(self), self.size, self.seed, parts)


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
    outcomes: bytes = field(default=b"", repr=False, compare=False)
    """:func:`ftbench.outcomes.pack` of the results row by row, on their way to a file of their own;
    empty in a record that was read."""

    def to_json(self) -> str:
        """Return the record as one line of JSON, without the newline and the outcomes."""
        values = {name: value for name, value in self.__dict__.items() if name != "outcomes"}
        # NaN has no JSON spelling, and a record must be readable by every JSON reader.
        return json.dumps({"schema": SCHEMA, **values}, allow_nan=False)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunRecord:
        """Return the record that ``values`` spells; TypeError says what is missing or wrong."""
        missing = [name for name in _REQUIRED if name not in values]
        if missing:
            raise TypeError(f"{missing[0]} is missing")
        known = cls.__dataclass_fields__.keys() - {"outcomes"}
        record = cls(**{name: values[name] for name in known if name in values})
        problem = next(_record_problems(record), None)
        if problem:
            raise TypeError(problem)
        return record


_REQUIRED = ("key", "status", "message", "identity", "labels")
_COMPONENT = {"name", "owner", "version", "options", "fingerprint"}
_TEXTS = ("key", "message", "traceback", "started_at")
_SECTIONS = ("scores", "costs", "protocol", "environment", "labels", "identity")


def _record_problems(record: RunRecord) -> Iterator[str]:
    """Yield what keeps a record from being read by a report."""
    if record.status not in STATUSES:
        yield f"status is {record.status!r}, not one of {', '.join(STATUSES)}"
    for name in _TEXTS:
        yield from _unless(getattr(record, name), str, name)
    yield from _unless(record.run_seconds, float, "run_seconds")
    sections = [(name, getattr(record, name)) for name in _SECTIONS]
    wrong = [p for name, section in sections for p in _unless(section, dict, name)]
    yield from wrong
    if wrong:
        return  # what follows looks into them
    for name in COMPONENTS:
        yield from _unless(record.labels.get(name), str, f"labels.{name}")
    yield from _identity_problems(record.identity)
    for name, value in record.scores.items():
        yield from _unless(value, float, f"scores.{name}")
    for name, cost in record.costs.items():
        if cost is not None:
            yield from _unless(cost, float, f"costs.{name}")
    metrics = record.metrics if isinstance(record.metrics, list) else [None]
    for index, metric in enumerate(metrics):
        yield from _metric_problems(metric, f"metrics[{index}]")
    if not _is_finite(record.identity):
        yield from _infinities(record.identity, "identity")


def _metric_problems(metric: object, name: str) -> Iterator[str]:
    """Yield what keeps a table from reading a metric; what it holds besides is left out there."""
    if not isinstance(metric, dict) or not metric.keys() >= {"name", "title"}:
        yield "metrics is no list of mappings with name and title"
        return
    for member, (fits, expected) in METRIC_FIELDS.items():
        if member in metric and not fits(metric[member]):
            yield f"{name}.{member} is {_shown(metric[member])}, not {expected}"
        elif member == "name" and is_taken(metric["name"]):
            yield f"{name}.name is {_shown(metric['name'])}, the name of another column"


def _is_finite(values: Mapping[str, Any]) -> bool:
    # The encoder looks at all numbers in C: a record has dozens, a directory thousands of records.
    try:
        json.dumps(values, allow_nan=False)
    except ValueError:
        return False
    return True


def _infinities(value: object, name: str) -> Iterator[str]:
    """Yield the numbers of an identity that are not finite: no condition has a hash with them."""
    if isinstance(value, float):
        yield from _unless(value, float, name)
    elif isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for inner, held in items:
            yield from _infinities(held, f"{name}.{inner}")


def _identity_problems(identity: Mapping[str, Any]) -> Iterator[str]:
    for name in ("size", "seed"):
        yield from _unless(identity.get(name), int, f"identity.{name}")
    yield from _unless(identity.get("recipe"), dict, "identity.recipe")
    for name in ("harness", "threads", "deterministic"):
        if name not in identity:
            yield f"identity.{name} is missing"
    for part in COMPONENTS:
        found = identity.get(part)
        yield from _unless(found, dict, f"identity.{part}")
        if isinstance(found, dict):
            yield from (f"identity.{part}.{name} is missing" for name in _COMPONENT - found.keys())
            yield from _unless(found.get("name"), str, f"identity.{part}.name")


_NOUNS = {str: "text", int: "a whole number", float: "a number"}


def _shown(value: object) -> str:
    return "missing" if value is None else repr(value)[:80]


def _is_infinite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)  # or NaN


def _unless(value: object, kind: type, name: str) -> Sequence[str]:
    """Return that a field is not of its kind, where it is not."""
    if type(value) is kind and kind is not int and not _is_infinite(value):
        return ()  # nearly always, and there are dozens a record
    wanted = int | float if kind is float else kind
    fits = isinstance(value, wanted) and not isinstance(value, bool)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        fits = False  # no table has a column for it
    noun = _NOUNS.get(kind, "a mapping")
    if kind is float and _is_infinite(value):
        fits, noun = False, "a finite number"
    return () if fits else (f"{name} is {_shown(value)}, not {noun}",)


def utc_now() -> str:
    """Return the time as ISO 8601 in UTC with milliseconds; equal lengths sort by time."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def describe_run(
    labels: Mapping[str, str], size: int, seed: int, parts: Collection[str] = ()
) -> str:
    """Return a run's short name; ``parts`` says which of task, backbone and recipe are in it."""
    words = {"task": " on ", "backbone": " from "}
    where = "".join(f"{words.get(part, ' with ')}{labels.get(part, '')}" for part in parts)
    return f"{labels['strategy']}{where} at size {size}, seed {seed}"


def identity_of(run: RunSpec | RunRecord) -> Mapping[str, Any]:
    """Return the identity of a run that is planned or over."""
    return run.identity() if isinstance(run, RunSpec) else run.identity


def labels_of(spec: RunSpec) -> dict[str, str]:
    """Return the display names of a run's components, its recipe's parts among them."""
    return {
        "task": spec.task.label,
        "backbone": spec.backbone.label,
        "strategy": spec.strategy.label,
        **{kind: part.label for kind, part in spec.parts.items()},
    }


def identity_key(identity: Mapping[str, Any]) -> str:
    """Return the SHA-256 of an identity's canonical JSON (sorted keys, no spaces)."""
    return hashlib.sha256(canonical(identity).encode()).hexdigest()


def canonical(values: Mapping[str, Any]) -> str:
    """Return JSON in its one spelling: sorted keys, no spaces."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one level with dotted names: ``{"recipe.steps": 150, ...}``."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat
