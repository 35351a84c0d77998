"""Which run is next, and where: the longest first, a process on each device."""

import dataclasses

import pytest

import ftbench
from ftbench.errors import SpecError
from ftbench.executors import Serial, Workers
from ftbench.sweep import make_plan, places
from ftbench.sweep.order import LongestFirst
from ftbench.sweep.places import executor_for, parse_workers, places_for
from tests.support import run_record, run_spec


def runs_of(strategies, seeds=(0, 1)):
    return [run_spec(strategy, seed=seed) for seed in seeds for strategy in strategies]


def took(run, seconds, status="ok"):
    record = run_record(run.strategy.label, seed=run.seed, status=status)
    costs = {**record.costs, "step_seconds": seconds / 200}
    return dataclasses.replace(record, run_seconds=seconds, costs=costs)


def named(runs):
    return [(run.strategy.label, run.seed) for run in runs]


def test_each_kind_shows_first_how_long_it_takes_and_then_the_longest_goes_first():
    seconds = {"quick": 1.0, "slow": 9.0, "middling": 4.0}
    waiting, order = LongestFirst(make_plan(runs_of(seconds), [])), []
    for run in waiting:
        order.append(run)
        waiting.finished(took(run, seconds[run.strategy.label]))
    assert named(order) == [
        ("quick", 0), ("slow", 0), ("middling", 0), ("slow", 1), ("middling", 1), ("quick", 1),
    ]  # fmt: skip


def test_what_is_known_from_before_is_heeded_from_the_start():
    old = [took(run_spec(name, seed=7), s) for name, s in (("quick", 1.0), ("slow", 9.0))]
    assert named(LongestFirst(make_plan(runs_of(["quick", "slow"]), old))) == [
        ("slow", 0), ("slow", 1), ("quick", 0), ("quick", 1),
    ]  # fmt: skip


def test_a_run_whose_kind_is_under_way_waits_for_kinds_that_are_known():
    old = [took(run_spec("known", seed=7), 2.0)]
    order = named(LongestFirst(make_plan(runs_of(["known", "new"]), old)))
    assert order == [("new", 0), ("known", 0), ("known", 1), ("new", 1)]


def test_runs_that_failed_before_come_last():
    runs = runs_of(["slow", "quick"], seeds=(0,))
    plan = make_plan(runs, [took(runs[0], 9.0, status="crashed")])
    assert named(LongestFirst(plan)) == [("quick", 0), ("slow", 0)]


def test_every_run_comes_once():
    runs = runs_of(["a", "b", "c"], seeds=range(5))
    assert sorted(named(LongestFirst(make_plan(runs, [])))) == sorted(named(runs))


def spec(**options):
    return ftbench.SweepSpec(**{"device": "cpu", **options})


@pytest.fixture
def gpus(monkeypatch):
    """Three GPUs, and eight cores."""
    monkeypatch.setattr(places.torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(places, "cores", lambda: 8)

    def resolved(device):
        return {"auto": "cuda:0", "cuda": "cuda:0"}.get(device, device)

    monkeypatch.setattr(places, "resolve_device", resolved)


@pytest.mark.parametrize(
    ("options", "workers", "expected"),
    [
        ({}, "auto", ["cpu"] * 8),
        ({"threads": 3}, "auto", ["cpu"] * 2),
        ({"threads": 16}, "auto", ["cpu"]),
        ({}, 2, ["cpu"] * 2),
        ({}, 0, ["cpu"]),
        ({"device": "auto"}, "auto", ["cuda:0", "cuda:1", "cuda:2"]),
        ({"device": "cuda"}, 5, ["cuda:0", "cuda:1", "cuda:2", "cuda:0", "cuda:1"]),
        ({"device": "cuda:1"}, "auto", ["cuda:1"]),
        ({"device": "cuda:1"}, 2, ["cuda:1"] * 2),
        ({"device": "cuda"}, 0, ["cuda:0"]),
    ],
)
def test_a_process_has_a_device_or_threads_of_its_own(gpus, options, workers, expected):
    assert places_for(spec(**options), workers) == expected


def test_several_runs_share_each_gpu_where_asked(gpus):
    devices = ["cuda:0", "cuda:1", "cuda:2"]
    assert places_for(spec(device="cuda"), "auto", 2) == devices * 2
    assert places_for(spec(device="cuda"), 4, 2) == [*devices, "cuda:0"]
    assert places_for(spec(), "auto", 2) == ["cpu"] * 8
    shared = executor_for(spec(device="cuda"), [run_spec()] * 9, "auto", runs_per_gpu=2)
    assert (shared.at_once, shared.shares_device) == (6, True)
    alone = executor_for(spec(device="cuda"), [run_spec()] * 9, "auto")
    assert (alone.at_once, alone.shares_device) == (3, False)
    with pytest.raises(SpecError, match="runs per GPU: expected a number of at least 1, got 0"):
        executor_for(spec(), [run_spec()], "auto", runs_per_gpu=0)


def test_no_more_processes_than_runs_and_none_where_one_core_is_all(gpus, monkeypatch):
    found = executor_for(spec(), [run_spec()] * 3, "auto")
    assert (type(found), found.at_once, found.shares_device) == (Workers, 3, True)
    assert isinstance(executor_for(spec(), [run_spec()], "auto"), Serial)
    assert isinstance(executor_for(spec(), [run_spec()] * 9, 0), Serial)
    assert isinstance(executor_for(spec(), [run_spec()] * 9, 1), Workers)
    # A GPU's context can be lost, and is lost with its process alone.
    assert isinstance(executor_for(spec(device="cuda:1"), [run_spec()] * 9, "auto"), Workers)


@pytest.mark.parametrize("text", ["", "-1", "many", "1.5"])
def test_a_number_of_workers_that_is_none_is_refused(text):
    with pytest.raises(SpecError, match="--workers: expected auto or a number"):
        parse_workers(text)
    assert (parse_workers("auto"), parse_workers("3")) == ("auto", 3)


def test_a_negative_number_is_refused_from_python_as_well():
    with pytest.raises(SpecError, match="workers: expected auto or a number of at least 0, got -1"):
        places_for(spec(), -1)


def test_the_quota_of_a_container_counts(monkeypatch):
    monkeypatch.setattr(places.os, "sched_getaffinity", lambda process: set(range(16)))
    for quota, expected in ((None, 16), (3, 3), (32, 16)):
        monkeypatch.setattr(places, "_quota", lambda quota=quota: quota)
        assert places.cores() == expected
