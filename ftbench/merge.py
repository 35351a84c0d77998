"""Several results directories as one: the parts of a sweep that ran on several machines."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ftbench import store
from ftbench.errors import StoreError
from ftbench.records import RunRecord, utc_now
from ftbench.results import write_derived

SOURCES = "merged.jsonl"  # which records came from where


@dataclass(frozen=True)
class Merged:
    """What merging did: how many runs each directory brought, and how many are there in all."""

    brought: dict[str, int]
    runs: int


def merge(directories: Sequence[str | Path], out: str | Path) -> Merged:
    """Copy the records and outcomes of several directories into ``out``, which may hold some.

    Of one key the ok record is taken, or else the last attempt. Records stay as they are: each says
    where and when it was made, and ``merged.jsonl`` which directory it came from. StoreError where
    a directory has no results, and for two ok records of one key with different scores: those of
    different machines differ in their last bits. Nothing is written then.
    """
    target = Path(os.path.abspath(out))
    sources = [Path(os.path.abspath(directory)) for directory in directories]
    found: dict[str, tuple[RunRecord, Path]] = {}
    for source in [target, *sources] if target.is_dir() else sources:
        held = store.snapshot(source) if source == target else store.require_results(source)
        for record in store.latest(held.records).values():
            _take(found, record, source)
    brought = {str(source): 0 for source in sources}
    with store.Store(target) as opened:
        there = store.latest(opened.records())
        specs = {text for text in map(_spec, [target, *sources]) if text}
        if len(specs) == 1:
            opened.write_spec(specs.pop())
        for record, source in found.values():
            if there.get(record.key) == record:
                continue
            opened.append(dataclasses.replace(record, outcomes=_outcomes(source, record)))
            opened.note(SOURCES, {"key": record.key, "from": str(source), "at": utc_now()})
            brought[str(source)] += 1
        write_derived(target, opened.records())
    return Merged(brought, len(found))


def _take(found: dict[str, tuple[RunRecord, Path]], record: RunRecord, source: Path) -> None:
    known = found.get(record.key)
    if known is None or known[0].status != "ok":
        found[record.key] = (record, source)
        return
    if record.status != "ok":
        return
    differing = next(_differences(known[0], record), None)
    if differing is not None:
        raise StoreError(
            f"{known[1]} and {source} hold two different records of one run "
            f"({record.labels.get('strategy')} at size {record.identity.get('size')}, seed "
            f"{record.identity.get('seed')}; {differing}): they were made on "
            f"{_where(known[0])} and {_where(record)}; leave one of the directories out"
        )


def _differences(first: RunRecord, second: RunRecord) -> Iterator[str]:
    """Yield in what two ok records of one run differ."""
    for name in sorted(first.scores.keys() | second.scores.keys()):
        one, other = first.scores.get(name), second.scores.get(name)
        if one != other:
            yield f"{name} {one} and {other}"
    fingerprint = "outcomes_fingerprint"
    if first.protocol.get(fingerprint) != second.protocol.get(fingerprint):
        yield "their results row by row"


def _where(record: RunRecord) -> str:
    device = record.environment.get("device") or "an unknown device"
    return f"{device}, torch {record.environment.get('torch', 'unknown')}"


def _outcomes(source: Path, record: RunRecord) -> bytes:
    try:
        return (source / store.OUTCOMES / f"{record.key}.npz").read_bytes()
    except OSError:  # the scores are whole without
        return b""


def _spec(directory: Path) -> str:
    try:
        text = (directory / store.SPEC).read_text(encoding="utf-8")
    except OSError:
        return ""
    return text.removeprefix(store.SPEC_HEADER).lstrip("\n")
