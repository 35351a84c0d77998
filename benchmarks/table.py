"""From pytest-benchmark's JSON report to one table in Markdown that a terminal shows as well."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_NONE, _NOT_MEASURED = "", "–"
_COPY_BYTES_PER_VALUE = 8
_UNSTEADY_SHARE = 0.25
_HEAD = (
    "ours, and below it what others take",
    "median",
    "GB/s",
    "of copy bandwidth",
    "times ours",
    "times ours with plan",
)
_WITH_PLAN = "with sample_mix and label weights"


@dataclass(frozen=True)
class Beside:
    """What took turns with a contender: its median seconds, and the contender's times as long."""

    seconds: float
    times: float


@dataclass(frozen=True)
class Timing:
    """One contender's median seconds a call, what was ``beside`` it, and if it can be trusted.

    ``spread`` is how far the quartiles lie apart, as a share of the median; of ``core_seconds``
    that all cores had, ``core_seconds_of_others`` went to other processes (0 where unknown).
    """

    contender: str
    variant: str
    seconds: float
    beside: Mapping[str, Beside]
    spread: float
    core_seconds: float
    core_seconds_of_others: float

    @property
    def unsteady(self) -> bool:
        """Whether the rounds differ much, or others took much: threads that wait are not alone."""
        taken = self.core_seconds_of_others > _UNSTEADY_SHARE * self.core_seconds
        return taken or self.spread > _UNSTEADY_SHARE


@dataclass(frozen=True)
class Measured:
    """A case's facts (see ``Case.facts``) and what was timed; what is missing or failed is not."""

    facts: Mapping[str, Any]
    timings: Sequence[Timing]

    def fastest(self, contender: str) -> Timing | None:
        """Return the fastest of a contender's variants, None where none was timed."""
        found = [timing for timing in self.timings if timing.contender == contender]
        return min(
            found,
            key=lambda t: t.beside["ours"].times if "ours" in t.beside else t.seconds,
            default=None,
        )

    def copy(self) -> Beside | None:
        """Return the copy that took turns with ours, None where none did."""
        ours = self.fastest("ours")
        return None if ours is None else ours.beside.get("copy")

    def copy_bandwidth(self) -> float | None:
        """Return the copy's bytes a second, None where none was timed."""
        copy = self.copy()
        moved: int = _COPY_BYTES_PER_VALUE * self.facts["values"]
        return None if copy is None else moved / copy.seconds

    def floor_share(self) -> float | None:
        """Return how long the same bytes alone take, over ours; None where that was not timed."""
        floor, copy = self.fastest("floor"), self.copy()
        if floor is not None and "ours" in floor.beside:
            return floor.beside["ours"].times
        moves_as_much = self.facts["bytes_per_value"] == _COPY_BYTES_PER_VALUE
        return 1 / copy.times if copy is not None and moves_as_much else None


def table(report: Mapping[str, Any]) -> str:
    """Return the table of ``report``, and under it the copies, the machine and what is missing."""
    cases = _cases(report["benchmarks"])
    rows = [row for case in cases for row in _case_rows(case)]
    machine = report["machine_info"]["ftbench"]
    return "\n".join([*aligned([_HEAD, *rows]), "", *_notes(cases, machine)]) + "\n"


def _cases(benchmarks: Sequence[Mapping[str, Any]]) -> list[Measured]:
    """Return the cases in the order in which they ran."""
    cases: dict[str, tuple[Mapping[str, Any], list[Timing]]] = {}
    for benchmark in benchmarks:
        extra, stats = benchmark["extra_info"], benchmark["stats"]
        _, timings = cases.setdefault(extra["case"]["id"], (extra["case"], []))
        timings.append(
            Timing(
                contender=extra["contender"],
                variant=extra["variant"],
                seconds=stats["median"] / extra["calls"],
                beside={name: Beside(**each) for name, each in extra["beside"].items()},
                spread=stats["iqr"] / stats["median"],
                core_seconds=extra.get("core_seconds", 0.0),
                core_seconds_of_others=extra.get("core_seconds_of_others", 0.0),
            )
        )
    return [Measured(facts, timings) for facts, timings in cases.values()]


def _case_rows(case: Measured) -> Iterator[tuple[str, ...]]:
    ours, with_plan = case.fastest("ours"), case.fastest("ours with plan")
    yield (
        f"**{case.facts['title']}**",
        _duration(ours),
        *_bandwidth(case, ours),
        _NONE,
        _NONE,
    )
    if case.facts["times_plan"]:
        yield (_WITH_PLAN, _duration(with_plan), _NONE, _NONE, _NONE, _NONE)
    if case.facts["floor"] is not None:
        yield _floor_row(case)
    for peer in case.facts["peers"]:
        yield _peer_row(case, peer)
    limit = case.facts["overhead_target_microseconds"]
    if limit is not None:
        yield ("the difference", _overhead(case, limit), _NONE, _NONE, _NONE, _NONE)


def _floor_row(case: Measured) -> tuple[str, ...]:
    floor = case.fastest("floor")
    ratio = _ratio(floor, "ours", None)
    return (_titled(case.facts["floor"], floor), _duration(floor), _NONE, _NONE, ratio, _NONE)


def _peer_row(case: Measured, peer: Mapping[str, Any]) -> tuple[str, ...]:
    theirs, target = case.fastest(peer["name"]), peer["target"]
    # Beside a call that takes microseconds the difference counts, not the ratio.
    compared = case.facts["overhead_target_microseconds"] is None
    return (
        _titled(peer["title"], theirs),
        _duration(theirs),
        _NONE,
        _NONE,
        _ratio(theirs, "ours", target, case.floor_share()) if compared else _NONE,
        _ratio(theirs, "ours with plan", target) if case.facts["times_plan"] else _NONE,
    )


def _titled(title: str, timing: Timing | None) -> str:
    return f"{title} ({timing.variant})" if timing and timing.variant else title


def _bandwidth(case: Measured, ours: Timing | None) -> tuple[str, str]:
    """Return ours in GB/s by the bytes that must move, and its share of the copy's beside it."""
    floor, target, copy = (
        case.facts["bytes_per_value"],
        case.facts["copy_share_target"],
        case.copy(),
    )
    if floor is None:
        return _NONE, _NONE
    if ours is None or copy is None:
        return _NOT_MEASURED, _NOT_MEASURED
    bandwidth = floor * case.facts["values"] / ours.seconds
    share = floor / _COPY_BYTES_PER_VALUE / copy.times
    mark = "" if target is None else _mark(share < target, f"{target:.0%}")
    text = f"{share:.0%}"
    if target is not None and share < target and text == f"{target:.0%}":
        text = f"just under {text}"
    return f"{bandwidth / 1e9:.1f}", f"{text}{mark}"


def _ratio(
    theirs: Timing | None, to: str, target: float | None, floor_share: float | None = None
) -> str:
    """Return theirs over ours, and over the floor where even that is short of the target."""
    if theirs is None or to not in theirs.beside:
        return _NOT_MEASURED
    ratio = theirs.beside[to].times
    text = f"{_three_digits(ratio)}×"
    if target is None:
        return text
    if ratio >= target:
        return f"{text} (target {target:g}×)"
    if _three_digits(ratio) == _three_digits(target):
        text = f"just under {target:g}×"
    reachable = target if floor_share is None else ratio / floor_share
    limit = "" if reachable >= target else f", floor {_three_digits(reachable)}×"
    return f"{text} (short of {target:g}×{limit})"


def _mark(short: bool, target: str) -> str:
    return f" (short of {target})" if short else f" (target {target})"


def _overhead(case: Measured, limit_microseconds: float) -> str:
    plain = case.fastest(case.facts["peers"][0]["name"])
    if plain is None:
        return _NOT_MEASURED
    difference = 1e6 * (plain.beside["ours"].seconds - plain.seconds)
    words = "above" if difference >= limit_microseconds else "target under"
    return f"{_three_digits(difference)} µs ({words} {limit_microseconds:g} µs)"


def _duration(timing: Timing | None) -> str:
    if timing is None:
        return _NOT_MEASURED
    units = (("s", 1.0), ("ms", 1e3), ("µs", 1e6))
    unit, scale = next((pair for pair in units if timing.seconds * pair[1] >= 1), units[-1])
    mark = "~" if timing.unsteady else ""
    return f"{mark}{_three_digits(timing.seconds * scale)} {unit}"


def _three_digits(number: float) -> str:
    decimals = 2 if abs(number) < 10 else 1 if abs(number) < 100 else 0
    return f"{number:.{decimals}f}"


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield Markdown's lines of ``rows``, the first their head; numbers stand to the right."""
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join([first, *others]) + " |"

    yield line(rows[0])
    first, *others = widths
    yield "| " + " | ".join(["-" * first, *("-" * (width - 1) + ":" for width in others)]) + " |"
    yield from map(line, rows[1:])


def _notes(cases: Sequence[Measured], machine: Mapping[str, Any]) -> Iterator[str]:
    if machine["quick"]:
        yield "- **a quick run**: sizes are reduced, so these numbers say nothing"
    yield (
        "- what is compared took turns of a few rounds, and its ratios are medians over the turns; "
        "GB/s count the bytes that must move, whatever the code moves; floor is a peer's time over "
        "that of the same bytes alone (a copy's where no other is named), where it is short as well"
    )
    yield (
        f"- ~ marks quartiles more than {_UNSTEADY_SHARE:.0%} of the median apart, or other "
        f"processes with more than {_UNSTEADY_SHARE:.0%} of the cores"
    )
    yield f"- copies beside ours, float32 into a kept buffer: {_copies_line(cases)}"
    yield f"- taken by other processes meanwhile: {_others(cases)} of the cores' time"
    yield from (f"- {name}: {line}" for name, line in machine["lines"].items())
    if machine["missing"]:
        yield (
            f"- {_NOT_MEASURED} was not measured: {', '.join(machine['missing'])} is not installed "
            "(pip install 'ftbench[bench]')"
        )


def _copies_line(cases: Sequence[Measured]) -> str:
    copies: dict[int, list[float]] = {}
    for case in cases:
        bandwidth = case.copy_bandwidth()
        if bandwidth is not None:
            copies.setdefault(case.facts["values"], []).append(bandwidth)
    sizes = []
    for values, found in sorted(copies.items()):
        low, high = f"{min(found) / 1e9:.1f}", f"{max(found) / 1e9:.1f}"
        spread = f"{high} GB/s" if low == high else f"{low} to {high} GB/s"
        sizes.append(f"{4 * values / 1e6:.1f} MB {spread}")
    return "; ".join(sizes) or _NOT_MEASURED


def _others(cases: Sequence[Measured]) -> str:
    timings = [timing for case in cases for timing in case.timings]
    passed = sum(timing.core_seconds for timing in timings)
    taken = sum(timing.core_seconds_of_others for timing in timings)
    return f"{taken / passed:.0%}" if passed else "an unknown share"
