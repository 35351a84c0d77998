"""Why a run is new: in which fields it differs from the nearest stored one.

Looking one up takes time that does not grow with the number of stored runs.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ftbench.records import COMPONENTS, RunRecord, RunSpec, flatten, identity_of
from ftbench.sweep.plan import Plan
from ftbench.sweep.points import PerSetting

Point = tuple[str, str, str, int, int]  # task, backbone, strategy, size, seed
Change = Mapping[str, tuple[Any, Any]]  # field: (old, new)
_POINT = ("task.name", "backbone.name", "strategy.name", "size", "seed")
_COMPARED = 8
"""How many of a point's settings a run is compared with; of more, with those that differ in one
field, which are looked up, or else with the latest."""


def why_new(run: RunSpec, records: Iterable[RunRecord]) -> Change:
    """Return the fields (old, new) in which ``run`` differs from the nearest stored run.

    Nearest is the one with the fewest differences among those of the same point. An empty result
    means that there is none, and :func:`reasons` says what of the point is new.
    """
    return StoredRuns(records).why_new(run)


def reasons(plan: Plan) -> Counter[str]:
    """Return why pending runs are pending, one line a reason, with how many runs it holds for."""
    counts: Counter[str] = Counter()
    if not plan.pending:
        return counts
    stored = StoredRuns(plan.records)
    for run in plan.pending:
        if run.key in plan.done:
            counts[f"ended as {plan.done[run.key].status}, will be tried again"] += 1
        else:
            counts[_reason(stored, run)] += 1
    return counts


def _reason(stored: StoredRuns, run: RunSpec) -> str:
    if not stored:
        return "nothing is stored yet"
    changed = stored.why_new(run)
    if changed:
        texts = (f"{n}: {_shown(old)} → {_shown(new)}" for n, (old, new) in changed.items())
        return ", ".join(texts)
    values = dict(zip(_POINT, _point(run.identity()), strict=True))
    unseen = [name for name in _POINT if values[name] not in stored.seen[name]]
    if not unseen:
        return "this task, backbone, strategy, size and seed were not combined yet"
    return ", ".join(f"{name}: {_shown(values[name])} is new" for name in unseen)


def _shown(value: object) -> str:
    if isinstance(value, str) and len(value) == 64:
        return repr(f"{value[:12]}…")  # a hash
    return "none" if value is None else repr(value)


@dataclass(frozen=True)
class _Setting:
    """Everything in an identity but its point."""

    fields: Mapping[str, Any]
    hashes: Mapping[str, int]  # of each field with its value
    total: int  # the sum of them, from which one field can be taken out again


@dataclass
class _Stored:
    """The different settings that are stored of one point, the latest last."""

    settings: dict[int, _Setting] = field(default_factory=dict)  # by what they add up to
    but_for_one: dict[int, _Setting] | None = None  # by what they add up to without one field


class StoredRuns:
    """The stored runs, to find the nearest one to a run in."""

    def __init__(self, records: Iterable[RunRecord]) -> None:
        self.seen: dict[str, set[Any]] = {name: set() for name in _POINT}
        self._settings: dict[str, _Setting] = {}
        self._stored: dict[Point, _Stored] = {}
        self._setting_of = PerSetting(lambda run: self._setting(identity_of(run)))
        self._point_of = PerSetting(lambda run: _point(identity_of(run))[:-1])
        self._changes: dict[tuple[int, int], Change] = {}
        for record in records:
            point = (*self._point_of(record), record.identity["seed"])
            for name, value in zip(_POINT, point, strict=True):
                self.seen[name].add(value)
            setting = self._setting_of(record)
            self._stored.setdefault(point, _Stored()).settings[setting.total] = setting

    def __bool__(self) -> bool:
        """Return whether anything is stored."""
        return bool(self._stored)

    def why_new(self, run: RunSpec) -> Change:
        """Return the fields (old, new) in which ``run`` differs from the nearest stored run."""
        stored = self._stored.get((*self._point_of(run), run.seed))
        if stored is None:
            return {}
        new = self._setting_of(run)
        changes = [self._change(old, new) for old in _candidates(stored, new)]
        return min((change for change in changes if change), key=len, default={})

    def _setting(self, identity: Mapping[str, Any]) -> _Setting:
        """Return an identity's setting; equal ones are one object."""
        rest = {name: value for name, value in identity.items() if name not in ("size", "seed")}
        text = json.dumps(rest, sort_keys=True)
        if text not in self._settings:
            fields = flatten(rest)
            for name in _POINT:
                fields.pop(name, None)
            hashes = {name: hash((name, _text(value))) for name, value in fields.items()}
            self._settings[text] = _Setting(fields, hashes, sum(hashes.values()))
        return self._settings[text]

    def _change(self, old: _Setting, new: _Setting) -> Change:
        pair = (id(old), id(new))
        if pair not in self._changes:
            names = sorted(old.fields.keys() | new.fields.keys())
            both = ((name, old.fields.get(name), new.fields.get(name)) for name in names)
            self._changes[pair] = {name: (was, now) for name, was, now in both if was != now}
        return self._changes[pair]


def _point(identity: Mapping[str, Any]) -> Point:
    task, backbone, strategy = (identity[part]["name"] for part in COMPONENTS)
    return task, backbone, strategy, identity["size"], identity["seed"]


def _candidates(stored: _Stored, new: _Setting) -> Sequence[_Setting]:
    """Return the stored settings that may be the nearest to ``new``, in the order stored."""
    settings = stored.settings
    if len(settings) <= _COMPARED:
        return list(settings.values())
    if stored.but_for_one is None:
        stored.but_for_one = {
            old.total - part: old for old in settings.values() for part in (0, *old.hashes.values())
        }
    sums = (new.total - part for part in (0, *new.hashes.values()))
    near = [stored.but_for_one[total] for total in sums if total in stored.but_for_one]
    return near or list(settings.values())[-_COMPARED:]


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
