"""Lines of ``runs.jsonl`` → records: each line checked, and what many say kept once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from ftbench.errors import StoreError
from ftbench.records import SCHEMA, RunRecord, Status

FOREIGN = ("it is not JSON", "ftbench did not write it")
"""What keeps lines that are another program's from being records."""

_SURROGATES = (b"\\ud", b"\\uD", b"\xed")  # how JSON spells a surrogate, and UTF-8's first byte
_Whole = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Number = _Whole | float


class _Identity(msgspec.Struct, forbid_unknown_fields=True):
    harness: str
    task: msgspec.Raw
    backbone: msgspec.Raw
    strategy: msgspec.Raw
    recipe: msgspec.Raw
    size: _Whole
    seed: _Whole
    threads: _Whole
    deterministic: bool


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """A line as this version writes it; its raw sections are the same in many lines."""

    schema: Literal[1]
    key: str
    status: Status
    message: str
    identity: _Identity
    labels: msgspec.Raw
    scores: dict[str, _Number]
    costs: dict[str, _Number | None]
    protocol: dict[str, Any]
    metrics: msgspec.Raw
    environment: msgspec.Raw
    traceback: str
    started_at: str
    run_seconds: _Number


class _Shared(NamedTuple):
    """The sections of a line that are the same in many."""

    task: Any
    backbone: Any
    strategy: Any
    recipe: Any
    labels: Any
    metrics: Any
    environment: Any


_IN_IDENTITY = ("task", "backbone", "strategy", "recipe")
_IN_LINE = ("labels", "metrics", "environment")


class LineReader:
    """Reads the lines of a directory: of 100,000, a second's work and little memory.

    A line is parsed and checked in full where any of its sections is new. Where each was in a line
    that passed, only what is the run's own is looked at, and the sections are those of before.
    """

    def __init__(self, path: Path) -> None:
        """``path`` is the file of the lines, which messages name."""
        self._path = str(path)
        self._decode: Callable[[bytes], _Line] = msgspec.json.Decoder(_Line).decode
        self._known: dict[tuple[bytes, ...], _Shared] = {}
        self._held: dict[bytes, Any] = {}

    def read(self, line: bytes, number: int) -> RunRecord | str:
        """Return the record that line ``number`` holds, or what keeps it from being one."""
        try:
            found = self._decode(line)
        except (msgspec.MsgspecError, ValueError, RecursionError):  # as an older version wrote it
            return self._parsed(line, number)
        sections = _sections(found)
        shared = self._known.get(sections)
        if shared is None:
            record = self._parsed(line, number)
            if isinstance(record, RunRecord):
                self._known[sections] = self._shared(sections, record)
            return record
        return _assembled(found, shared)

    def _parsed(self, line: bytes, number: int) -> RunRecord | str:
        return parse(line, f"{self._path}, line {number}")

    def _shared(self, sections: tuple[bytes, ...], record: RunRecord) -> _Shared:
        """Return a record's sections; each is one object for all lines that have it."""
        held = (
            *(record.identity[name] for name in _IN_IDENTITY),
            *(getattr(record, name) for name in _IN_LINE),
        )
        one = zip(sections, held, strict=True)
        return _Shared(*(self._held.setdefault(text, section) for text, section in one))


def _sections(line: _Line) -> tuple[bytes, ...]:
    own = line.identity
    return (
        bytes(own.task),
        bytes(own.backbone),
        bytes(own.strategy),
        bytes(own.recipe),
        bytes(line.labels),
        bytes(line.metrics),
        bytes(line.environment),
    )


def _assembled(line: _Line, shared: _Shared) -> RunRecord:
    own = line.identity
    return RunRecord(
        key=line.key,
        status=line.status,
        message=line.message,
        identity={
            "harness": own.harness,
            "task": shared.task,
            "backbone": shared.backbone,
            "strategy": shared.strategy,
            "recipe": shared.recipe,
            "size": own.size,
            "seed": own.seed,
            "threads": own.threads,
            "deterministic": own.deterministic,
        },
        labels=shared.labels,
        scores=line.scores,
        costs=line.costs,
        protocol=line.protocol,
        metrics=shared.metrics,
        environment=shared.environment,
        traceback=line.traceback,
        started_at=line.started_at,
        run_seconds=line.run_seconds,
    )


def parse(line: bytes, where: str) -> RunRecord | str:
    """Return the record that a line holds, checked in full, or what keeps it from being one."""
    try:
        values = json.loads(line)
        if any(mark in line for mark in _SURROGATES):
            # Half a character, which no file and no table takes; whole ones stay as they are.
            text = json.dumps(values, ensure_ascii=False).encode("utf-16", "surrogatepass")
            values = json.loads(text.decode("utf-16", "replace"))
    except (ValueError, RecursionError):
        return FOREIGN[0]
    schema = values.get("schema") if isinstance(values, dict) else None
    if not isinstance(schema, int):
        return FOREIGN[1]
    if schema > SCHEMA:
        raise StoreError(
            f"{where} was written by a newer ftbench (format {schema}, this one reads {SCHEMA}); "
            "upgrade ftbench"
        )
    try:
        return RunRecord.from_json(values)
    except TypeError as error:
        return str(error)
    except RecursionError:
        return "it is nested too deep"
