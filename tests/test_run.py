"""One run: how it ends, what it costs, and what it leaves behind."""

import dataclasses
import functools
import math
import random
import re
import sys

import numpy as np
import pytest
import torch

import ftbench
from ftbench.errors import SpecError
from ftbench.recipe import Recipe
from ftbench.records import HARNESS
from ftbench.run import resolve_device, run_one
from ftbench.strategies.full import Full
from ftbench.train import train
from tests.support import made

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
# NLL of three strategies after twelve mixed steps on the tiny task, seed 0.
GOLDEN = {"full": 0.89755, "l2sp": 0.90142, "ewc": 0.89058}
METHODS = ("prepare", "trains", "rate", "penalty", "finish")


def strategy_that(method, act, result=None):
    """Return a strategy class whose ``method`` calls ``act`` first."""

    def replaced(self, *arguments):
        act()
        return getattr(ftbench.Strategy, method)(self, *arguments) if result is None else result

    return type("Acting", (ftbench.Strategy,), {"name": "acting", method: replaced})


def raising(error):
    def act():
        raise error

    return act


@pytest.mark.parametrize("method", METHODS)
def test_a_strategy_that_raises_is_a_failed_run_whose_message_has_the_place(tiny_run, method):
    record = tiny_run(strategy_that(method, raising(ValueError("oh dear"))))
    assert record.status == "failed"
    assert re.fullmatch(
        rf"ValueError: oh dear \({re.escape(__file__)}:\d+ in act\)", record.message
    )
    assert (record.scores, record.costs) == ({}, {})
    assert record.run_seconds > 0
    assert record.identity["strategy"]["name"] == "acting"


def test_an_error_written_for_the_user_is_shown_bare(tiny_run):
    record = tiny_run(strategy_that("prepare", raising(ftbench.FtbenchError("do this instead"))))
    assert (record.status, record.message) == ("failed", "do this instead")


def test_a_strategy_that_exits_does_not_end_the_sweep(tiny_run):
    record = tiny_run(strategy_that("finish", functools.partial(sys.exit, 3)))
    assert record.status == "failed"
    assert record.message.startswith("SystemExit: 3")


def test_a_strategy_that_is_not_there_is_a_failed_run(catalogue, tiny_spec):
    spec = tiny_spec(catalogue)
    gone = dataclasses.replace(spec, strategy=dataclasses.replace(spec.strategy, name="gone"))
    record = run_one(gone, catalogue, device="cpu")
    assert record.status == "failed"
    assert record.message.startswith("unknown strategy 'gone'")


def nan_from(share):
    """Return a strategy class whose penalty is NaN from a share of the steps on."""

    def rate(self, stage, progress):
        self.progress = progress
        return 1.0

    def penalty(self, model):
        return torch.tensor(math.nan if self.progress >= share else 0.0)

    return type("NaN", (ftbench.Strategy,), {"name": "nan", "rate": rate, "penalty": penalty})


def test_a_penalty_that_turns_into_no_number_is_a_diverged_run_that_names_the_step(tiny_run):
    record = tiny_run(nan_from(0.5), steps=4)
    assert record.status == "diverged"
    assert "the penalty of 'nan' is nan at step 3; try a lower" in record.message


def test_a_penalty_that_was_never_a_number_is_a_failed_run(tiny_run):
    record = tiny_run(nan_from(0.0), steps=4)
    assert record.status == "failed"
    assert record.message.endswith("is nan at step 1, before any weight has moved")


def test_what_a_strategy_leaves_of_torchs_settings_reaches_no_other_run(tiny_run):
    def disturb():
        torch.backends.mkldnn.set_flags(False, None, None, None)
        torch.set_float32_matmul_precision("medium")
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.backends.cudnn.benchmark = True

    before = tiny_run()
    tiny_run(strategy_that("finish", disturb))
    assert torch.get_default_dtype() == torch.float32
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.is_grad_enabled()
    assert not torch.backends.cudnn.benchmark
    assert torch.backends.mkldnn.set_flags(None, None, None, None)[0]
    assert tiny_run().scores == before.scores


def test_a_task_that_augments_from_the_global_generator_is_not_disturbed_by_a_strategy(
    tiny, tiny_model
):
    class Augmented:
        def __init__(self):
            self.examples, self.draws = tiny.task().pool().subset(np.arange(20)), []

        def __len__(self):
            return len(self.examples)

        def batch(self, rows):
            self.draws.append((torch.rand(1).item(), np.random.rand(), random.random()))
            return self.examples.batch(rows)

    def draws(strategy):
        examples = Augmented()
        train(
            tiny_model(), examples, strategy=strategy, recipe=Recipe(steps=4, batch_size=5),
            made=made(Recipe()), loss=tiny.task().loss, seed=1,
        )  # fmt: skip
        return examples.draws[1:]  # without the warm-up's

    def disturb():
        torch.rand(3), np.random.rand(3), random.random()

    assert draws(Full()) == draws(strategy_that("penalty", disturb)())


def test_a_huge_learning_rate_is_a_diverged_run_that_names_the_step(tiny_run):
    record = tiny_run(optimizer="sgd", learning_rate=1e30, steps=30)
    assert record.status == "diverged"
    assert re.match(r"the loss is (nan|inf) at step [2-9]; try a lower recipe", record.message)
    assert record.scores == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_finite_number_is_a_diverged_run(tiny, tiny_run, value):
    class Scored(tiny.Task):
        def score(self, outcomes):
            return {**super().score(outcomes), "odd": value}

    record = tiny_run(task=Scored)
    assert (record.status, record.message) == ("diverged", f"the score odd is {value}")


@pytest.mark.parametrize("kind", [np.float32, torch.tensor, int])
def test_scores_of_any_numeric_type_can_be_stored(tiny, tiny_run, kind):
    class Scored(tiny.Task):
        def score(self, outcomes):
            return {**super().score(outcomes), "accuracy": kind(1)}

    record = tiny_run(task=Scored)
    assert record.status == "ok"
    assert '"accuracy": 1' in record.to_json()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5])
def test_a_rate_that_is_no_finite_number_is_a_failed_run(tiny_run, value):
    record = tiny_run(strategy_that("rate", list, value))
    assert record.status == "failed"
    assert f"rate() returned {value} for stem at progress 0.00" in record.message


def test_a_run_over_its_time_is_stopped(tiny_run, clock):
    slow = strategy_that("penalty", functools.partial(clock.sleep, 0.25))
    record = tiny_run(slow, steps=1000, timeout_seconds=2)
    assert record.status == "timeout"
    assert record.message == "out of time after 9 of 1000 steps"
    assert record.run_seconds == clock.now


@pytest.mark.parametrize(
    "act",
    [
        raising(MemoryError()),
        raising(torch.OutOfMemoryError("CUDA out of memory")),
        functools.partial(torch.empty, 2**48),  # what torch raises on a CPU
    ],
    ids=["python", "cuda", "cpu"],
)
def test_want_of_memory_is_its_own_status(tiny_run, act):
    assert tiny_run(strategy_that("prepare", act)).status == "out-of-memory"


def global_state():
    return (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_rng_state().tolist(),
        repr(np.random.get_state()),
        random.getstate(),
    )


def test_an_interrupt_passes_through_and_leaves_global_state_as_it_was(tiny_run):
    before = global_state()
    with pytest.raises(KeyboardInterrupt, match="stop"):
        tiny_run(strategy_that("penalty", raising(KeyboardInterrupt("stop"))), threads=2)
    assert global_state() == before


def scribble():
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)


@pytest.mark.parametrize("method", METHODS)
def test_global_state_is_restored_after_a_strategy_that_changes_it(tiny_run, method):
    before = global_state()
    assert tiny_run(strategy_that(method, scribble)).status == "ok"
    assert global_state() == before


@pytest.mark.parametrize("outside", ["off", "on", "warn"])
def test_deterministic_mode_is_on_inside_and_as_before_outside(tiny, tiny_spec, outside):
    inside = []

    def note():
        inside.append(torch.are_deterministic_algorithms_enabled())

    tiny.strategies.append(strategy_that("prepare", note))
    catalogue = ftbench.load_catalogue(extra={"tiny": tiny})
    spec = dataclasses.replace(tiny_spec(catalogue, "acting"), deterministic=True)
    torch.use_deterministic_algorithms(outside != "off", warn_only=outside == "warn")
    before = torch.get_deterministic_debug_mode()
    try:
        assert run_one(spec, catalogue, device="cpu").status == "ok"
        assert torch.get_deterministic_debug_mode() == before
    finally:
        torch.use_deterministic_algorithms(False)
    assert inside == [True]


def test_a_run_uses_the_threads_of_its_spec(tiny_run):
    inside = []
    act = strategy_that("prepare", lambda: inside.append(torch.get_num_threads()))
    tiny_run(act, threads=2)
    tiny_run(act, threads=1)
    assert inside == [2, 1]


def test_parameters_are_counted_by_scalar(tiny_run):
    stages = [4 * 9 + 8, 6 * 4 * 9 + 6 + 12, 8 * 96 + 8]
    head = 3 * 8 + 3
    for stages_trained in range(4):
        costs = tiny_run(f"partial(stages={stages_trained})").costs
        assert costs["total_parameters"] == sum(stages) + head
        assert costs["trainable_parameters"] == sum(stages[3 - stages_trained :]) + head


@ON_LINUX
def test_peak_memory_holds_what_the_strategy_allocated_in_each_of_two_runs(tiny_run):
    size = 96 * 2**20
    allocating = strategy_that("prepare", lambda: torch.ones(size // 4).sum())
    tiny_run("full")  # what is loaded on first use is no run's cost
    peaks = [tiny_run(allocating).costs["peak_memory_bytes"] for _ in range(2)]
    assert all(0.9 * size < peak < 1.5 * size for peak in peaks), peaks
    assert tiny_run("full").costs["peak_memory_bytes"] < size / 2


def test_seconds_are_those_of_the_steps_and_of_the_strategy(tiny_run, clock):
    slow = strategy_that("penalty", functools.partial(clock.sleep, 0.25))
    record = tiny_run(slow, steps=10)
    assert record.costs["step_seconds"] == 0.25
    assert record.costs["train_seconds"] == 2.5
    assert record.run_seconds == clock.now
    for method in ("prepare", "finish"):
        record = tiny_run(strategy_that(method, functools.partial(clock.sleep, 0.5)))
        assert (record.costs["train_seconds"], record.costs["step_seconds"]) == (0.5, 0)


def test_seconds_are_read_from_the_clock(tiny_run, clock):
    clock.tick = 1.0
    record = tiny_run()
    assert 0 < record.costs["step_seconds"] < record.costs["train_seconds"] < record.run_seconds


def test_a_record_counts_the_pool_and_what_two_seeds_share_of_it(tiny_run):
    protocol = tiny_run(size=12).protocol
    assert protocol["pool_rows"] == 60
    # Of 30, 18 and 12 rows, twelve labels are 6, 4 and 2, or near them.
    assert protocol["subset_overlap"] == pytest.approx(12 / 60, rel=0.05)


def test_scores_and_costs_are_finite_numbers_under_their_names(tiny_run):
    record = tiny_run()
    assert set(record.scores) == {
        "accuracy", "macro_f1", "nll", "ece", "source_accuracy_before", "source_accuracy_after",
    }  # fmt: skip
    assert set(record.costs) == {
        "train_seconds", "train_cpu_seconds", "saved_seconds", "step_seconds",
        "predict_row_seconds", "peak_memory_bytes", "trainable_parameters", "total_parameters",
    }  # fmt: skip
    assert np.isfinite([*record.scores.values(), *record.costs.values()]).all()
    assert record.environment["device_type"] == "cpu"
    assert record.environment["strategy_owner"].startswith("ftbench ")


@pytest.mark.parametrize("changed", ["task", "backbone"])
def test_data_or_weights_that_changed_since_planning_are_refused(
    monkeypatch, catalogue, tiny, tiny_spec, changed
):
    spec = tiny_spec(catalogue)
    monkeypatch.setattr(getattr(tiny, changed), "fingerprint", lambda self: "other")
    record = run_one(spec, catalogue, device="cpu")
    assert record.status == "failed"
    assert re.match(rf"the data or weights of {changed} .* changed since .*again", record.message)


def test_progress_is_told_of_every_step(catalogue, tiny_spec):
    steps = []
    spec = tiny_spec(catalogue)
    run_one(spec, catalogue, device="cpu", on_step=lambda *step: steps.append(step))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_auto_is_the_cpu_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert (resolve_device("auto"), resolve_device("cpu")) == ("cpu", "cpu")
    with pytest.raises(SpecError, match=r"cuda:3 is not there: torch sees 0 .*use --device cpu"):
        resolve_device("cuda:3")


def test_a_gpu_is_named_with_its_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [resolve_device(d) for d in ("auto", "cuda", "cuda:1")] == ["cuda:0", "cuda:0", "cuda:1"]
    with pytest.raises(SpecError, match="cuda:2 is not there: torch sees 2"):
        resolve_device("cuda:2")


def test_scores_move_only_with_the_harness_version(tiny_run):
    """Where this fails because the loop, the draws or the scores changed, raise records.HARNESS."""
    recipe = {"steps": 12, "mixing": "mixup-or-cutmix(mixup=0.3)", "label_smoothing": 0.1}
    strategies = {"full": "full", "l2sp": "l2sp(alpha=0.1)", "ewc": "ewc(strength=100.0)"}
    found = {name: tiny_run(text, **recipe).scores["nll"] for name, text in strategies.items()}
    assert HARNESS == "1"
    assert found == pytest.approx(GOLDEN, abs=2e-3)
