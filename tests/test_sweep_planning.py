import dataclasses
import itertools
import math

import pytest

import ftbench
from ftbench import subsets
from ftbench.errors import PluginError, SpecError
from ftbench.records import STATUSES
from ftbench.sweep import (
    DEFAULT_RETRY,
    describe,
    estimate_seconds,
    expand,
    make_plan,
    parse_statuses,
    probe_seconds,
    reasons,
    run_sweep,
    why,
    why_new,
)
from tests.support import run_record, run_spec, tiny_sweep
from tests.tiny import TinyPlugin


def points(runs):
    """Return the (seed, size, strategy) of runs, in order."""
    return [(run.seed, run.size, run.strategy.label) for run in runs]


# Expansion.


def test_the_grid_goes_seed_by_seed_so_that_an_early_stop_leaves_whole_tables(catalogue):
    spec = tiny_sweep(seeds=(3, 1), sizes=(20, 12), strategies=("full", "ewc"))
    assert points(expand(spec, catalogue)) == list(
        itertools.product((3, 1), (20, 12), ("full", "ewc"))
    )


def test_a_list_makes_grid_points_with_labels_and_keys_of_their_own(catalogue):
    runs = expand(tiny_sweep(strategies=("partial(stages=[1,2])", "full")), catalogue)
    assert [run.strategy.label for run in runs] == ["partial", "partial(stages=2)", "full"]
    assert [run.strategy.options.get("stages") for run in runs] == [1, 2, None]
    assert len({run.key for run in runs}) == 3


def test_two_lists_make_their_product(catalogue):
    runs = expand(tiny_sweep(strategies=("l2sp(alpha=[0.1,1.0],beta=[0.0,0.5])",)), catalogue)
    assert {(r.strategy.options["alpha"], r.strategy.options["beta"]) for r in runs} == {
        *itertools.product((0.1, 1.0), (0.0, 0.5))
    }


def test_percentages_and_full_are_counts_of_the_pool_and_equal_sizes_run_once(catalogue):
    runs = expand(tiny_sweep(strategies=("full",), sizes=("20%", 12, "full", 60)), catalogue)
    assert [run.size for run in runs] == [12, 60]


def test_what_was_asked_changes_the_key_and_where_it_runs_does_not(catalogue):
    def key(**changes):
        return expand(tiny_sweep(strategies=("full",), **changes), catalogue)[0].key

    base = key()
    assert key(timeout_seconds=5) == base
    others = [key(seeds=(1,)), key(sizes=(13,)), key(threads=2), key(deterministic=True)]
    others.append(key(recipe={"steps": 5}))
    assert len({base, *others}) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategies": ("fulll",)}, r"unknown strategy 'fulll'; did you mean 'full'\?"),
        ({"strategies": ("full(dekay=0.5)",)}, r"strategy 'full': unknown option 'dekay'; did you"),
        ({"strategies": ("full(decay=2)",)}, r"strategy 'full': option 'decay': .*less than or eq"),
        ({"strategies": ("full(decay='x')",)}, r"option 'decay': .*valid number.*got 'x'"),
        ({"strategies": ("full", "full(decay=1.0)")}, r"'full\(decay=1\.0\)' is in the spec twice"),
        ({"strategies": ("partial(stages=[1,1])",)}, r"is in the spec twice, as 'partial'"),
        ({"strategies": ("partial(stages=[])",)}, r"an option of .* is an empty list"),
        ({"strategies": ("partial(2)",)}, r"cannot read the options .*given by name"),
        ({"strategies": ("partial(stages=2",)}, r"cannot read 'partial\(stages=2'; write name"),
        ({"strategies": ("full(decay=0.5)(decay=0.7)",)}, r"cannot read"),
        ({"sizes": (2,)}, r"size 2 cannot hold .*3 classes; the smallest size that can is 3"),
        ({"sizes": ("1%",)}, r"size 1 cannot hold .*the smallest size that can is 3"),
        ({"sizes": (61,)}, r"size 61 is larger than the pool of 60"),
        ({"sizes": ("200%",)}, r"size 200% is larger than the pool of 60"),
        ({"sizes": ("many",)}, r"cannot read the size 'many'; write a count, a percentage"),
        ({"sizes": (0,)}, r"size 0 is not positive"),
        ({"sizes": (3,), "recipe": {"patience": 1}}, r"use a larger size or turn early stopping"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    tmp_path, catalogue, changes, message
):
    with pytest.raises(SpecError, match=message):
        run_sweep(tiny_sweep(**changes), tmp_path / "out", catalogue=catalogue)
    assert not (tmp_path / "out").exists()


def test_an_option_that_is_no_literal_is_named_without_python_internals(catalogue):
    with pytest.raises(SpecError, match=r"'strings'") as caught:
        expand(tiny_sweep(strategies=("progressive(form=classic)",)), catalogue)
    assert "object at 0x" not in str(caught.value)


@pytest.mark.parametrize("kind", ["task", "backbone"])
def test_an_unknown_task_or_backbone_gets_the_nearest(catalogue, kind):
    wrong = {"task": ("tinny",), "backbone": ("tinynet",)}
    spec = tiny_sweep().model_copy(update={f"{kind}s": wrong[kind]})
    with pytest.raises(SpecError, match=rf"unknown {kind} 'tin.*; did you mean 'tiny"):
        expand(spec, catalogue)


# Planning.


def test_only_what_is_missing_is_pending_and_retries_come_last():
    runs = [run_spec(seed=seed) for seed in range(len(STATUSES) + 1)]
    records = [run_record(status=status, seed=seed) for seed, status in enumerate(STATUSES)]
    plan = make_plan(runs, records)
    by_status = dict(zip(STATUSES, runs, strict=False))
    untried = runs[-1]
    assert list(plan.pending) == [untried, *(by_status[status] for status in DEFAULT_RETRY)]
    assert set(plan.done) == {run.key for run in runs[:-1]}


def test_the_default_retries_all_but_diverged():
    assert set(DEFAULT_RETRY) == set(STATUSES) - {"ok", "diverged"}


@pytest.mark.parametrize("status", [s for s in STATUSES if s != "ok"])
def test_retry_chooses_which_endings_run_again(status):
    runs = [run_spec(seed=seed) for seed in range(len(STATUSES))]
    records = [run_record(status=s, seed=seed) for seed, s in enumerate(STATUSES)]
    plan = make_plan(runs, records, parse_statuses(status))
    assert [plan.done[run.key].status for run in plan.pending] == [status]
    assert not make_plan(runs, records, parse_statuses("none")).pending


def test_a_run_that_ended_well_once_is_done_whatever_came_later():
    records = [run_record(status="ok"), run_record(status="failed")]
    assert not make_plan([run_spec()], records).pending


def test_an_unknown_status_gets_the_nearest():
    assert parse_statuses("failed, timeout") == ("failed", "timeout")
    message = r"--retry: unknown status 'diverge'; did you mean 'diverged'\? \(known: failed, "
    with pytest.raises(SpecError, match=message):
        parse_statuses("failed,diverge")
    with pytest.raises(SpecError, match="unknown status 'ok'"):
        parse_statuses("ok")


# What makes a run new.


@pytest.mark.parametrize(
    ("changes", "field", "values"),
    [
        ({"learning_rate": 0.1}, "recipe.learning_rate", (1e-3, 0.1)),
        ({"version": "2"}, "strategy.version", ("1", "2")),
        ({"options": {"alpha": 2}}, "strategy.options.alpha", (None, 2)),
    ],
)
def test_why_new_names_the_changed_field(changes, field, values):
    assert why_new(run_spec(**changes), [run_record()]) == {field: values}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_why_new_compares_with_the_nearest_of_the_same_strategy_size_and_seed(order):
    far = run_record(learning_rate=0.5, schedule="linear")
    near = run_record(learning_rate=0.5)
    records = [(far, near, run_record("ewc"))[i] for i in order]
    assert list(why_new(run_spec(), records)) == ["recipe.learning_rate"]
    assert why_new(run_spec(seed=1), records) == {}


def test_reasons_are_counted_and_readable():
    runs = [run_spec(seed=0), run_spec(seed=1), run_spec(seed=2), run_spec(seed=3)]
    records = [run_record(seed=s, learning_rate=0.1) for s in (0, 1)]
    records.append(run_record(seed=2, status="timeout"))
    plan = make_plan(runs, records)
    assert reasons(plan) == {
        "recipe.learning_rate: 0.1 → 0.001": 2,
        "ended as timeout, will be tried again": 1,
        "seed: 3 is new": 1,
    }


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"strategy": "ewc"}, "strategy.name: 'ewc' is new"),
        ({"size": 50, "seed": 7}, "size: 50 is new, seed: 7 is new"),
        ({"seed": 1}, "this task, backbone, strategy, size and seed were not combined yet"),
        ({"patience": None}, "recipe.patience: 2 → none"),
        ({"schedule": "linear"}, "recipe.patience: 2 → none, recipe.schedule: none → 'linear'"),
    ],
)
def test_a_reason_names_what_is_new(changes, reason):
    records = [run_record(patience=2), run_record("l2sp", seed=1, patience=2)]
    assert reasons(make_plan([run_spec(**changes)], records)) == {reason: 1}


def test_where_nothing_is_stored_that_is_the_reason():
    runs = [run_spec(seed=0), run_spec(seed=1)]
    assert reasons(make_plan(runs, [])) == {"nothing is stored yet": 2}


# What a plan says of itself.


def test_a_plan_says_what_is_done_left_alone_and_left_to_do():
    statuses = ["ok", "ok", "ok", "diverged", "diverged", "failed"]
    records = [run_record(status=status, seed=seed) for seed, status in enumerate(statuses)]
    runs = [run_spec(seed=seed) for seed in range(12)]
    assert describe(make_plan(runs, records)) == (
        "12 runs, 3 already done, 2 diverged, not tried again (--retry diverged), 7 to run"
    )
    assert describe(make_plan(runs, records, ())) == (
        "12 runs, 3 already done, 2 diverged, not tried again (--retry diverged), "
        "1 failed, not tried again (--retry failed), 6 to run"
    )


def test_a_plan_says_which_runs_were_done_on_another_kind_of_device():
    records = [run_record(seed=0), run_record(seed=1, environment={"device_type": "cuda"})]
    runs = [run_spec(seed=seed) for seed in range(3)]
    plan = make_plan(runs, records, device_type="cpu")
    assert describe(plan) == "3 runs, 2 already done, 1 of them on cuda, 1 to run"


# Plugins that raise while the grid is expanded.


@pytest.mark.parametrize(
    ("part", "method"), [("task", "pool"), ("task", "fingerprint"), ("backbone", "fingerprint")]
)
def test_a_plugin_that_raises_while_the_grid_is_expanded_is_named(part, method):
    def fail(self):
        raise ValueError("no such file")

    original = {"task": TinyPlugin.Task, "backbone": TinyPlugin.Backbone}[part]
    broken = type("Broken", (original,), {method: fail})
    catalogue = ftbench.load_catalogue(extra={"tiny": TinyPlugin(**{part: broken})})
    message = f"the {part} '{original.name}' of tiny: ValueError: no such file"
    with pytest.raises(PluginError, match=f"^{message}$"):
        expand(tiny_sweep(), catalogue)


# The time it takes.


def test_the_estimate_is_the_mean_of_each_strategys_finished_runs():
    done = [run_record("full", seed=0), run_record("ewc", seed=0)]
    plan = make_plan([run_spec(s, seed=1) for s in ("full", "ewc", "full")], done)
    assert estimate_seconds(plan) == pytest.approx(9.0)
    assert estimate_seconds(make_plan([run_spec("l2sp")], done)) is None


def test_short_trials_estimate_the_time_and_store_nothing(tiny, clock):
    class Slow(ftbench.Strategy):
        name = "slow"

        def prepare(self, model, data):
            clock.sleep(100)

        def penalty(self, model):
            clock.sleep(1)

    tiny.strategies.append(Slow)
    catalogue = ftbench.load_catalogue(extra={"tiny": tiny})
    spec = tiny_sweep(strategies=("full", "slow"), seeds=(0, 1), recipe={"steps": 10})
    found = probe_seconds(make_plan(expand(spec, catalogue), []), spec, catalogue)
    assert found == 2 * (100 + 10)  # seeds


# Large plans.


def spread(count):
    """Return runs at points of their own."""
    return {"specs": [{"seed": i} for i in range(count)], "change": {"learning_rate": 0.5}}


def crowded(count):
    """Return runs of one strategy, size and seed, that differ in a recipe value."""
    return {"specs": [{"learning_rate": 1 + i} for i in range(count)], "change": {"warmup": 0.5}}


def unlike(count):
    """Return runs at one point that differ in several values from all stored ones."""
    specs = [{"learning_rate": 1 + i, "momentum": 1 + i} for i in range(count)]
    return {"specs": specs, "change": {"warmup": 0.5, "learning_rate": 0.1, "momentum": 0.1}}


def work(make, count, monkeypatch):
    """Return how many pairs of settings were compared, and the reasons."""
    case = make(count)
    records = [run_record(**spec) for spec in case["specs"]]
    runs = [run_spec(**{**spec, **case["change"], "size": 20}) for spec in case["specs"]]
    runs = list({run.key: run for run in runs}.values())
    compared = []
    real = why.StoredRuns._change
    with monkeypatch.context() as patched:
        patched.setattr(
            why.StoredRuns, "_change", lambda *a: (compared.append(1), real(*a))[1], raising=True
        )
        found = reasons(make_plan(runs, records))
    return len(compared), found


@pytest.mark.parametrize("make", [spread, crowded, unlike])
def test_looking_for_reasons_grows_no_faster_than_the_plan(make, monkeypatch):
    few, _ = work(make, 20, monkeypatch)
    many, found = work(make, 200, monkeypatch)
    assert 0 < many <= 10 * few
    if make is not unlike:
        [(name, _)] = make(1)["change"].items()
        assert all(reason.startswith(f"recipe.{name}: ") for reason in found)


def test_a_setting_that_differs_in_one_field_is_found_among_many():
    records = [run_record(learning_rate=1 + i) for i in range(50)]
    for changed in ({"warmup": 0.5}, {"options": {"new": 1}}, {"batch_size": 3}):
        run = run_spec(learning_rate=31, **changed)
        assert len(why_new(run, records)) == 1
    gone = run_record(learning_rate=7, options={"old": 2})
    assert why_new(run_spec(learning_rate=7), [gone, *records[:3], *records[20:]]) == {
        "strategy.options.old": (2, None)
    }


def test_the_code_of_a_component_is_named_as_the_reason():
    old = run_record("mine", source="a" * 64)
    run = run_spec("mine", source="b" * 64)
    assert why_new(run, [old]) == {"strategy.source": ("a" * 64, "b" * 64)}
    plan = make_plan([run], [old])
    assert list(reasons(plan)) == ["strategy.source: 'aaaaaaaaaaaa…' → 'bbbbbbbbbbbb…'"]


def test_the_room_for_validation_is_looked_at_once_a_size(catalogue, monkeypatch):
    drawn = []
    real = subsets.draw
    monkeypatch.setattr(subsets, "draw", lambda *a: (drawn.append(a[1:]), real(*a))[1])
    spec = tiny_sweep(sizes=(12, 20), seeds=tuple(range(50)), recipe={"patience": 2})
    expand(spec, catalogue)
    assert sorted(size for size, _ in drawn) == [12, 20]


def test_runs_that_are_not_of_the_plan_are_counted():
    plan = make_plan([run_spec(seed=0)], [run_record(seed=0), run_record(seed=1)])
    assert plan.others == 1


def test_runs_with_another_number_of_steps_are_estimated_from_the_steps_of_finished_ones():
    costs = [{"step_seconds": 0.01}, {"step_seconds": 0.03}]
    records = [run_record(seed=i, costs=cost) for i, cost in enumerate(costs)]
    # 3 s a run with 150 steps: 1.5 and no seconds besides them, 0.02 a step.
    plan = make_plan([run_spec(steps=1000, seed=5), run_spec(seed=5)], records)
    assert estimate_seconds(plan) == pytest.approx(0.75 + 1000 * 0.02 + 3.0)
    assert estimate_seconds(make_plan([run_spec(batch_size=7)], records)) is None


@pytest.mark.parametrize("value", ["x", [1], None, math.inf, math.nan, 10**400])
def test_what_is_no_number_in_a_record_is_no_obstacle_to_an_estimate(value):
    records = [run_record(protocol={"steps": value}, costs={"step_seconds": 0.02})]
    records.append(run_record(seed=1, protocol={"steps": 150}, costs={"step_seconds": value}))
    plan = make_plan([run_spec(seed=2), run_spec(seed=2, steps=10)], records)
    assert estimate_seconds(plan) == pytest.approx(3.0 + 3.0 + 10 * 0.01)


def test_no_estimate_is_endless():
    records = [dataclasses.replace(run_record(seed=n), run_seconds=1e308) for n in range(3)]
    assert estimate_seconds(make_plan([run_spec(seed=9)], records)) is None
