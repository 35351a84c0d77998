"""What `make bench` prints, and how it measures."""

import os
import time
from types import SimpleNamespace

import pytest
import scipy.stats

from benchmarks import end_to_end, timing
from benchmarks.cases import PenaltyCase
from benchmarks.table import table
from benchmarks.timing import Budget, Timed, measure
from ftbench import ops
from ftbench.ops import serving

# Milliseconds of a contender's variants, and of ours beside it: memory may have been slower then.
MEASURED = {
    ("ours", ""): (1.0, {"copy": 0.8}),
    ("floor", ""): (0.9, {"ours": 1.0}),
    ("floor", "as one tensor"): (1.6, {"ours": 2.0}),
    ("loop", ""): (6.0, {"ours": 1.0}),
    ("foreach", "new buffers"): (2.5, {"ours": 1.0}),
    ("foreach", "kept buffers"): (4.0, {"ours": 2.0}),
    ("compiled", ""): (3.5, {"ours": 1.0}),
}
TARGETS = {"loop": 18, "foreach": 2.2, "compiled": 3}
CALLS = 4


def benchmark(contender, variant, milliseconds, beside, facts):
    median = 1e-3 * milliseconds * CALLS
    return {
        "extra_info": {
            "case": facts,
            "contender": contender,
            "variant": variant,
            "calls": CALLS,
            "beside": {
                name: {"seconds": 1e-3 * each, "times": milliseconds / each}
                for name, each in beside.items()
            },
        },
        "stats": {"median": median, "iqr": 0.3 * median if contender == "compiled" else 0.0},
    }


def report(without=(), **facts):
    facts = {
        "id": "l2sp",
        "title": "L2-SP",
        "values": 1_000_000,
        "bytes_per_value": 16,
        "copy_share_target": 0.85,
        "times_plan": False,
        "floor": "the same bytes",
        "overhead_target_microseconds": None,
        "peers": [{"name": n, "title": f"a {n}", "target": t} for n, t in TARGETS.items()],
    } | facts
    return {
        "benchmarks": [
            benchmark(*name, *measured, facts)
            for name, measured in MEASURED.items()
            if name[0] not in without
        ],
        "machine_info": {
            "ftbench": {"quick": False, "lines": {"processor": "one"}, "missing": list(without)}
        },
    }


def rows(text):
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {first: rest for first, *rest in cells}


def test_shares_and_ratios_are_of_what_ran_beside():
    found = rows(table(report()))
    # 16 bytes for a million numbers in 1 ms; the copy moves 8 bytes each in 0.8 ms.
    assert found["**L2-SP**"] == ["1.00 ms", "16.0", "160% (target 85%)", "", ""]
    assert found["the same bytes (as one tensor)"][0::3] == ["1.60 ms", "0.80×"]
    assert found["a compiled"] == ["~3.50 ms", "", "", "3.50× (target 3×)", ""]
    # 2 / 0.8 would reach 2.2, so the bytes are no excuse.
    assert found["a foreach (kept buffers)"][3] == "2.00× (short of 2.2×)"
    assert found["a loop"][3] == "6.00× (short of 18×, floor 7.50×)"


def test_a_call_that_takes_microseconds_is_compared_by_the_difference():
    peers = [{"name": "loop", "title": "a loop", "target": None}]
    found = rows(table(report(overhead_target_microseconds=10.0, floor=None, peers=peers)))
    assert found["a loop"][3] == ""
    assert found["the difference"][0] == "-5000 µs (target under 10 µs)"


def test_what_falls_short_of_the_copy_is_said():
    found = rows(table(report(bytes_per_value=8, copy_share_target=0.85)))
    assert found["**L2-SP**"][2] == "80% (short of 85%)"
    without = rows(table(report(bytes_per_value=8, floor=None, without=("floor",))))
    # A copy, 0.8 of ours, moves the same bytes.
    assert without["a loop"][3] == "6.00× (short of 18×, floor 7.50×)"


def test_what_is_short_by_less_than_is_printed_is_said_to_be():
    share = rows(table(report(bytes_per_value=8, copy_share_target=0.8004)))["**L2-SP**"][2]
    assert share == "just under 80% (short of 80%)"
    peers = [{"name": "loop", "title": "a loop", "target": 6.0 + 1e-9}]
    assert rows(table(report(peers=peers)))["a loop"][3].startswith("just under 6× (short of 6×")


def test_what_was_not_measured_is_a_dash_and_named():
    text = table(report(without=("foreach", "floor")))
    found = rows(text)
    assert found["a foreach"] == ["–", "", "", "–", ""]
    assert found["the same bytes"][0::3] == ["–", "–"]
    assert found["a loop"][3] == "6.00× (short of 18×)"
    assert "foreach, floor is not installed" in text


class Benchmark:
    """pytest-benchmark's fixture as far as it is used."""

    def __init__(self):
        self.extra_info = {}

    def pedantic(self, function, setup, rounds):
        for _ in range(rounds):
            setup()
            function()


def measured(budget, function, beside):
    recorded = Benchmark()
    case = PenaltyCase(
        id="x", title="x", device="cpu", peers=(), bytes_per_value=16, model="tiny", fisher=False
    )
    measure(recorded, budget, case, "loop", "fast", function, beside)
    return recorded.extra_info


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still: what takes time moves ``clock.now``."""
    clock = SimpleNamespace(now=0.0, process_time=time.process_time)
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr(timing, "time", clock)
    return clock


def test_what_is_compared_takes_turns(clock):
    ran = []

    def take(name, seconds):
        ran.append(name)
        clock.now += seconds

    beside = {"ours": lambda: take("b", 0.004)}
    found = measured(Budget(0.01, least_turns=3), lambda: take("a", 0.002), beside)
    # Two untimed and five timed rounds each.
    warming_up = 3
    assert "".join(ran) == "a" * warming_up + "b" * warming_up + ("bbbbbbb" + "aaaaaaa") * 3
    assert (found["contender"], found["variant"], found["calls"]) == ("loop", "fast", 1)
    assert found["beside"]["ours"]["seconds"] == pytest.approx(0.004)
    assert found["beside"]["ours"]["times"] == pytest.approx(0.5)


def test_turns_fill_the_budget(clock):
    def take():
        clock.now += 0.01

    calls = []
    measured(Budget(1.0), lambda: (take(), calls.append(1)), {"ours": take})
    # A turn is seven rounds of each: seven turns in a second. Three calls before warm up.
    assert len(calls) == 3 + 7 * 7


def test_a_ratio_stands_though_the_machine_slows_down():
    """Of four turns the machine is fast in one; in each, ours takes half as long."""
    pace = iter([1] * 14 + [4] * 42)
    theirs, ours = Timed(lambda: None, "cpu"), Timed(lambda: None, "cpu")
    for _ in range(4):
        for timed, seconds in ((theirs, 0.002), (ours, 0.001)):
            timed.turns.append([seconds * next(pace) for _ in range(7)])
    assert theirs.over(ours) == pytest.approx(2.0)


def test_short_calls_are_timed_by_many(clock):
    def take():
        clock.now += 1e-6

    found = measured(Budget(0.01), take, {"ours": take})
    assert found["calls"] == 512  # the first power of two that makes half a millisecond
    assert found["beside"]["ours"]["seconds"] == pytest.approx(1e-6)


def turns_of(*seconds):
    return [{"all": each, "mix": each / 1000} for each in seconds]


def test_what_the_operators_are_worth_is_a_share_of_the_whole():
    # The machine is slower from turn to turn, and in one the compiled operators' step is.
    slower = range(9)
    compiled = turns_of(*(2.0 + turn + (0.7 if turn == 4 else 0) for turn in slower))
    plain = turns_of(*(2.5 + turn + turn / 100 for turn in slower))
    timed = {"compiled": compiled, "reference": plain}
    found = list(end_to_end.rows_of("a step", {"mix": "of which mixing"}, timed))
    text = end_to_end.table(found, {"processor": "one"})
    assert "medians of 9 turns" in text
    cells = rows(text)
    # Saved: -160 and 500 to 580 ms, without the one in turn 4. The second of nine to the eighth.
    assert cells["a step"][2] == "530.0 ms (500.0 ms to 570.0 ms)"
    assert cells["a step"][3] == f"{0.53 / 6.54:.1%}"
    assert cells["of which mixing"][2:] == ["0.5 ms (0.5 ms to 0.6 ms)", "0.0%"]


def test_an_interval_of_the_median_holds_it_in_95_of_100_cases():
    for turns in range(6, 40):
        outside = end_to_end._outside(turns)
        # The median is below the interval where at most `outside` of the turns are below it.
        tail = scipy.stats.binom.cdf([outside, outside + 1], turns, 0.5)
        assert 2 * tail[0] <= 0.05 < 2 * tail[1]


def test_what_is_saved_in_some_turns_and_lost_in_others_is_none():
    timed = {
        "compiled": turns_of(1.0, 1.3, 1.0, 1.2, 1.0, 1.0, 1.0),
        "reference": turns_of(1.2, 1.2, 1.1, 1.3, 1.1, 1.1, 1.1),
    }
    found = list(end_to_end.rows_of("a step", {}, timed))
    assert rows(end_to_end.table(found, {}))["a step"][3] == "none"


@pytest.mark.deep
@pytest.mark.slow
def test_what_the_operators_are_worth_is_measured(capsys):
    pytest.importorskip("torchvision")
    if ops.implementation().name != "compiled":
        pytest.skip(f"nothing is compiled: {ops.implementation().reason}")
    assert end_to_end.main(["--quick", "--turns", "6"]) == 0
    cells = rows(capsys.readouterr().out)
    assert [len(row) for row in cells.values()] == [4] * 7
    with pytest.raises(SystemExit):
        end_to_end.main(["--quick", "--turns", "5"])
    assert "--turns 5: an interval needs at least 6" in capsys.readouterr().err


def test_both_implementations_take_turns_and_what_served_before_serves_again(monkeypatch):
    if ops.implementation().name != "compiled":
        pytest.skip(f"nothing is compiled: {ops.implementation().reason}")
    monkeypatch.setenv("FTBENCH_OPS", "reference")
    serving.choose_again()
    served = []

    def measured(turn):
        assert turn == len(served) // 2
        served.append(ops.implementation().name)
        return {"all": float(len(served))}

    try:
        found = end_to_end.take_turns(measured, 6)
        turns = list(zip(served[::2], served[1::2], strict=True))
        assert set(turns) == {("compiled", "reference"), ("reference", "compiled")}
        for name, seconds in found.items():
            assert [s["all"] for s in seconds] == [i for i, n in enumerate(served, 1) if n == name]
        assert ops.implementation().name == os.environ["FTBENCH_OPS"] == "reference"
    finally:
        monkeypatch.undo()
        serving.choose_again()
