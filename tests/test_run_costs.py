"""What a run costs: which stretch is measured, and what stays outside it."""

import types
import weakref

import pytest
import torch

import ftbench
from ftbench import stopwatch
from ftbench.recipes.optimizers import SGD, AdamW
from ftbench.run import work


class Watched:
    """Examples that log when they are copied."""

    def __init__(self, examples, log):
        self.examples, self.log = examples, log

    def __len__(self):
        return len(self.examples)

    def subset(self, rows):
        self.log.append("copy")
        return self.examples.subset(rows)


def test_what_the_harness_copies_and_loads_comes_before_memory_and_clock_start(
    tiny, tiny_run, monkeypatch
):
    log = []

    def noting(name, call):
        def noted(*arguments, **options):
            log.append(name)
            return call(*arguments, **options)

        return noted

    for name in ("PeakMemory", "Stopwatch", "rehearse_optimizer"):
        monkeypatch.setattr(work, name, noting(name, getattr(work, name)))

    class WithSource(tiny.Task):
        def source(self):
            source = super().source()
            return ftbench.SourceTask(source.name, Watched(source.samples, log), source.held_out)

    class Prepares(ftbench.Strategy):
        name = "prepares"

        def prepare(self, model, data):
            log.append("prepare")

    assert tiny_run(Prepares, task=WithSource).status == "ok"
    before = log[: log.index("PeakMemory")]
    assert {"copy", "rehearse_optimizer"} <= set(before)
    assert log.index("PeakMemory") < log.index("Stopwatch") < log.index("prepare")
    assert log.count("copy") == 1


def test_the_copy_of_the_source_is_gone_before_training_unless_a_strategy_keeps_it(tiny_run):
    alive = []

    class Looks(ftbench.Strategy):
        name = "looks"

        def prepare(self, model, data):
            self.samples = weakref.ref(data.source.samples.inputs)

        def penalty(self, model):
            alive.append(self.samples() is not None)

    assert tiny_run(Looks).status == "ok"
    assert alive == [False] * 4


def test_the_rehearsal_touches_neither_generators_nor_the_model():
    before = torch.get_rng_state()
    for optimizer in (AdamW(), SGD()):
        work.rehearse_optimizer(optimizer, "cpu")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("clock", ["perf_counter", "process_time"])
def test_seconds_are_those_of_preparation_steps_and_finish(tiny, tiny_run, monkeypatch, clock):
    now = [0.0]

    def passing(seconds):
        now[0] += seconds

    still = {"perf_counter": lambda: 0.0, "process_time": lambda: 0.0}
    monkeypatch.setattr(
        stopwatch, "time", types.SimpleNamespace(**{**still, clock: lambda: now[0]})
    )

    class Slow(ftbench.Strategy):
        name = "slow"

        def prepare(self, model, data):
            passing(1)

        def penalty(self, model):
            passing(10)

        def finish(self, model, data):
            passing(100)

    class SlowTask(tiny.Task):
        def score(self, outcomes):
            passing(1000)
            return super().score(outcomes)

        def source(self):
            passing(1000)
            return super().source()

    costs = tiny_run(Slow, task=SlowTask, steps=4).costs
    names = {"perf_counter": "train_seconds", "process_time": "train_cpu_seconds"}
    assert costs[names.pop(clock)] == 1 + 4 * 10 + 100
    assert costs[names.popitem()[1]] == 0
    assert costs["step_seconds"] == (10 if clock == "perf_counter" else 0)


def test_processor_seconds_are_a_column_that_no_score_may_be_named_like(tiny):
    class Named(tiny.Task):
        metrics = (ftbench.Metric("train_cpu_seconds", "mine"),)

    catalogue = ftbench.load_catalogue(extra={"mine": type(tiny)(task=Named)})
    assert any("'train_cpu_seconds', the name of another" in e.error for e in catalogue.errors)
