"""What frozen stages make of rows is computed once, and no score can tell."""

import copy
import json
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ftbench
from ftbench.backbone import Backbone
from ftbench.cache import Shelf, shared_shelf
from ftbench.run import prefixes, work
from tests.tiny import TinyNet, TinyPlugin, TinyTask, tiny_stages


@pytest.fixture
def shelves(monkeypatch, tmp_path):
    """A function that runs on with a new shelf over one folder, as another process would."""

    def new(**options):
        found = Shelf(tmp_path / "runs", **{"limit": 1e9, **options})
        monkeypatch.setattr(work, "shared_shelf", lambda: found)
        return found

    return new


def scores(record):
    assert record.status == "ok", record.message + record.traceback
    return record.scores, record.protocol["final_loss"], record.outcomes


RECIPES = (
    {},
    {"precision": "bfloat16"},
    {"accumulation": 3},
    {"patience": 2, "validate_every": 1},
    {"augmentation": "crop-flip(padding=1)"},
    {"mixing": "mixup(alpha=0.4)"},
    {"head": "plain(dropout=0.5)"},
    {"norm_statistics": "update"},
)


@pytest.mark.parametrize(
    ("strategy", "recipe"),
    [
        *((name, recipe) for name in ("partial", "progressive") for recipe in RECIPES),
        *((name, recipe) for name in ("head-only", "full", "ewc") for recipe in RECIPES[:2]),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value), "plain"),
)
def test_scores_are_the_same_bits_whatever_was_there(shelves, tiny_run, strategy, recipe):
    options = {"steps": 8, "size": 24, **recipe}
    shelves(limit=0)
    alone = scores(tiny_run(strategy, **options))
    first = shelves()
    assert scores(tiny_run(strategy, **options)) == alone
    assert first.computed > 0
    second = shelves()
    assert scores(tiny_run(strategy, **options)) == alone
    assert second.computed == 0
    shelves(limit=0, memory=0)  # nothing can be kept at all
    found, _, _ = scores(tiny_run(strategy, **options))
    assert found == pytest.approx(alone[0], abs=1e-4)


def test_a_run_without_the_harness_sharing_scores_the_same(shelves, tiny_run, monkeypatch):
    shelves()
    shared = scores(tiny_run("partial", steps=8, size=24))[0]
    monkeypatch.setattr(prefixes.Prefixes, "_flows", lambda *args: None)
    assert scores(tiny_run("partial", steps=8, size=24))[0] == pytest.approx(shared, abs=1e-4)


def test_other_strategies_and_recipes_compute_no_prefix_again(shelves, tiny_run):
    shelves()
    tiny_run("head-only", steps=3)
    later = shelves()
    record = tiny_run("head-only", steps=5, learning_rate=0.02, head="hidden(dropout=0.1)")
    assert (record.status, later.computed) == ("ok", 0)


def test_other_rows_weights_or_precision_are_computed(shelves, tiny_run):
    shelves()
    tiny_run("head-only")
    for options in ({"seed": 1}, {"size": 15}, {"precision": "bfloat16"}):
        found = shelves()
        tiny_run("head-only", **options)
        assert found.computed == 1, options  # the training rows; test and source are there

    class Other(TinyNet):
        def build(self, *, pretrained):
            built = super().build(pretrained=pretrained)
            with torch.no_grad():
                built.stages[0][1][0].weight.mul_(1.5)
            return built

    found = shelves()
    tiny_run("head-only", backbone=Other)
    assert found.computed == 3


def test_what_was_saved_counts_as_if_the_run_were_alone(shelves, tiny_run, monkeypatch):
    class Slow(TinyNet):
        """Its first stage takes a while."""

        def build(self, *, pretrained):
            built = super().build(pretrained=pretrained)
            built.stages[0][1].register_forward_hook(lambda *args: clock.spend(5.0))
            return built

    class SlowClock:
        now = 0.0

        def spend(self, seconds):
            self.now += seconds

    clock = SlowClock()
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    shelves()
    first = tiny_run("head-only", backbone=Slow)
    shelves()
    second = tiny_run("head-only", backbone=Slow)
    assert first.costs["saved_seconds"] == 0
    assert second.costs["saved_seconds"] == pytest.approx(5.0)
    assert second.costs["train_seconds"] == pytest.approx(first.costs["train_seconds"])
    assert second.costs["predict_row_seconds"] == pytest.approx(first.costs["predict_row_seconds"])


# Strategies and backbones of all sorts get this without knowing of it, or do without.


class HeadOnly(ftbench.Strategy):
    name = "mine"

    def trains(self, stage, progress):
        return stage.is_head


def same_with_and_without(shelves, tiny_run, strategy, **options):
    """Return the scores, and how many entries of training rows a second run computes."""
    shelves(limit=0)
    alone = scores(tiny_run(strategy, steps=6, **options))
    shelves()
    assert scores(tiny_run(strategy, steps=6, **options)) == alone
    shelves()
    assert scores(tiny_run(strategy, steps=6, **options)) == alone
    return alone[0]


def used_flows(monkeypatch):
    used = []
    wanted = prefixes.Prefixes.training

    def training(self, depth):
        found = wanted(self, depth)
        used.append(None if found is None else found.depth)
        return found

    monkeypatch.setattr(prefixes.Prefixes, "training", training)
    return used


def test_a_stage_with_a_hook_is_run_in_every_step(shelves, tiny_run, monkeypatch):
    calls = []

    class Hooked(HeadOnly):
        def prepare(self, model, data):
            model.stages[1].register_forward_hook(lambda *args: calls.append(1))

    used = used_flows(monkeypatch)
    same_with_and_without(shelves, tiny_run, Hooked)
    assert used == [1, 1, 1]  # the stage before it is shared
    assert len(calls) >= 3 * 6


def test_changed_values_are_another_entry(shelves, tiny_run, monkeypatch):
    class Scaled(HeadOnly):
        factor = 1.0

        def prepare(self, model, data):
            with torch.no_grad():
                model.stages[0][0].weight.mul_(self.factor)
                model.stages[0][0].weight.data.mul_(self.factor)

    used = used_flows(monkeypatch)
    plain = same_with_and_without(shelves, tiny_run, Scaled)
    Scaled.factor = 3.0
    assert same_with_and_without(shelves, tiny_run, Scaled) != plain
    assert used == [3] * 6


def test_an_injected_module_makes_the_prefix_its_own(shelves, tiny_run, monkeypatch):
    class Injected(HeadOnly):
        def prepare(self, model, data):
            model.stages[0].append(nn.Tanh())

    used = used_flows(monkeypatch)
    same_with_and_without(shelves, tiny_run, Injected)
    assert used == [None] * 3


def test_a_swapped_activation_is_seen(shelves, tiny_run, monkeypatch):
    class Swapped(HeadOnly):
        def prepare(self, model, data):
            model.stages[1][2] = nn.SiLU()

    plain = same_with_and_without(shelves, tiny_run, HeadOnly)
    used = used_flows(monkeypatch)
    assert same_with_and_without(shelves, tiny_run, Swapped) != plain
    assert used == [1] * 3


def test_a_changed_attribute_is_seen(shelves, tiny_run, monkeypatch):
    class Softer(HeadOnly):
        def prepare(self, model, data):
            model.stages[1][1].eps = 0.5

    used = used_flows(monkeypatch)
    same_with_and_without(shelves, tiny_run, Softer)
    assert used == [1] * 3


class Writes(HeadOnly):
    """Moves a frozen stage in each step."""

    by_data = False

    def advance(self, step):
        super().advance(step)
        weight = step.model.stages[1][0].weight
        with torch.no_grad():
            (weight.data if self.by_data else weight).mul_(0.9)


def test_a_strategy_that_writes_to_a_frozen_stage_is_heeded(shelves, tiny_run, monkeypatch):
    found = same_with_and_without(shelves, tiny_run, Writes)
    monkeypatch.setattr(prefixes.Prefixes, "_flows", lambda *args: None)
    assert scores(tiny_run(Writes, steps=6))[0] == pytest.approx(found, abs=1e-4)


def test_one_that_does_so_without_a_trace_is_refused(shelves, tiny_run):
    class Hides(Writes):
        by_data = True

    shelves()
    record = tiny_run(Hides, steps=6)
    assert record.status == "failed"
    assert "changed values of the frozen stage body by .data" in record.message


class Noisy(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.3, training=True)


class NumpyNoise(nn.Module):
    def forward(self, x):
        return x + np.random.normal(size=1).item()


class PythonNoise(nn.Module):
    def forward(self, x):
        return x + random.random()


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += 1
        return x


@pytest.mark.parametrize("kind", [Noisy, NumpyNoise, PythonNoise, Counting])
def test_stages_that_are_not_the_same_each_time_are_run_each_time(
    shelves, tiny_run, monkeypatch, kind
):
    class Odd(TinyNet):
        def build(self, *, pretrained):
            torch.manual_seed(3)
            stages = tiny_stages()
            stages[1][1].append(kind())
            return Backbone(stages)

    used = used_flows(monkeypatch)
    for _ in range(2):
        shelves()
        record = tiny_run("head-only", backbone=Odd, steps=6)
        # Noise in a prediction is refused elsewhere; it must have come from the stage, each time.
        assert record.status == "ok" or "depends on the rows beside it" in record.message
    assert used == [1, 1]  # the stage before it


def test_inputs_are_there_for_whoever_asks(shelves, tiny_run):
    class Looks(HeadOnly):
        def objective(self, forward):
            assert forward.inputs.shape[1:] == (1, 8, 8)
            assert forward.stages[0] is None
            with torch.no_grad():
                again = forward.model.features(forward.inputs)
            torch.testing.assert_close(again, forward.features)
            torch.testing.assert_close(forward.again().features, forward.features)
            return forward.loss

    same_with_and_without(shelves, tiny_run, Looks)


def test_a_prefix_that_hardly_any_row_would_go_through_twice_is_not_computed(
    shelves, tiny_run, monkeypatch
):
    used = used_flows(monkeypatch)
    tiny_run("head-only", steps=2, batch_size=5, size=24)
    tiny_run("head-only", steps=6, batch_size=5, size=24)
    assert used == [None, 3]


def test_a_test_set_that_the_seed_redraws_is_its_own(shelves, tiny_run):
    class Redrawn(TinyTask):
        seed = 0

        def at_seed(self, seed):
            found = Redrawn()
            found.seed = seed
            return found

        def test(self):
            return super().test().subset(torch.arange(5 + self.seed).numpy())

    shelves()
    for seed in (0, 1, 0):
        record = tiny_run("head-only", task=Redrawn, seed=seed)
        assert (record.status, record.protocol["test_rows"]) == ("ok", 5 + seed), record.message


def test_a_sweep_in_worker_processes_has_the_scores_of_one_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("FTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FTBENCH_CACHE_GB", "1")
    shared_shelf.cache_clear()
    spec = ftbench.SweepSpec(
        tasks=("tiny",),
        backbones=("tiny-net",),
        strategies=("scratch", "full", "partial", "progressive", "head-only", "l2sp", "ewc"),
        sizes=(12, 24),
        seeds=(0, 1),
        device="cpu",
        recipe={"steps": 4, "batch_size": 5},
    )
    found = {}
    for name, workers in (("alone", 0), ("one", 1), ("three", 3)):
        catalogue = ftbench.load_catalogue(extra={"tiny": TinyPlugin()})
        plan = ftbench.run_sweep(spec, tmp_path / name, catalogue=catalogue, workers=workers)
        found[name] = {key: json.dumps(dict(r.scores)) for key, r in plan.done.items()}
        assert {record.status for record in plan.done.values()} == {"ok"}
        assert len(found[name]) == 28
    assert found["alone"] == found["one"] == found["three"]
    assert list((tmp_path / "cache" / "runs").glob("*.safetensors"))


# What finish() does is scored, however it does it.


class Halves(HeadOnly):
    """Halves the weights of a stage that never trained, in one of three ways."""

    how = "in place"

    def finish(self, model, data):
        scored = copy.deepcopy(model) if self.how == "in a copy" else model
        weight = scored.stages[1][0].weight
        with torch.no_grad():
            (weight.data if self.how == "by .data" else weight).mul_(0.5)
        return scored


@pytest.mark.parametrize("how", ["in place", "by .data", "in a copy"])
def test_what_finish_changes_is_what_is_scored(shelves, tiny_run, monkeypatch, how):
    monkeypatch.setattr(Halves, "how", how)
    unchanged = same_with_and_without(shelves, tiny_run, HeadOnly)
    found = same_with_and_without(shelves, tiny_run, Halves)
    monkeypatch.setattr(prefixes.Prefixes, "_flows", lambda *args: None)
    expected = scores(tiny_run(Halves, steps=6))[0]
    assert expected["nll"] != pytest.approx(unchanged["nll"], abs=1e-3)
    assert found == pytest.approx(expected, abs=1e-4)


def test_a_fisher_of_the_source_is_one_for_all_seeds_sizes_and_strengths(shelves, tiny_run):
    shelves()
    tiny_run("ewc")
    found = shelves()
    later = [tiny_run("ewc", seed=1), tiny_run("ewc", size=15), tiny_run("ewc", steps=7)]
    assert [record.status for record in later] == ["ok"] * 3
    assert found.computed == 0


def test_a_task_that_seeds_do_not_redraw_has_one_test_set_for_all(shelves, tiny_run):
    class Same(TinyTask):
        def at_seed(self, seed):
            return self

    shelves()
    tiny_run("head-only", task=Same, seed=0)
    found = shelves()
    tiny_run("head-only", task=Same, seed=1)
    assert found.computed == 1  # the training rows alone
