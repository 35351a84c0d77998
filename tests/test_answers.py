"""A method that returns something else fails its run with a message that names the method."""

import re

import numpy as np
import pytest
import torch
from torch import nn

import ftbench
from tests.tiny import TinyNet, TinyTask, tiny_stages

SCORES = {"accuracy": 1.0, "macro_f1": 1.0, "nll": 0.0, "ece": 0.0}


@pytest.mark.parametrize("method", ["trains", "decays"])
@pytest.mark.parametrize("answer", [None, "yes", 1, []])
def test_an_answer_that_is_no_flag_is_an_error_that_names_the_method(tiny_run, method, answer):
    strategy = type("Mine", (ftbench.Strategy,), {"name": "mine", method: lambda *_: answer})
    record = tiny_run(strategy)
    assert record.status == "failed"
    assert f"strategy 'mine': {method}() for stem" in record.message
    assert record.message.endswith(f"returned {answer!r}; expected True or False")


def test_numpys_flags_are_flags(tiny_run):
    strategy = type("Mine", (ftbench.Strategy,), {"name": "mine", "trains": lambda *_: np.True_})
    assert tiny_run(strategy).scores == tiny_run("full").scores


@pytest.mark.parametrize(
    ("scored", "message"),
    [
        (None, r"score\(\) returned None, which lacks accuracy; expected a number for each of"),
        ({}, r"score\(\) returned nothing, which lacks accuracy"),
        ({"accuracy": 1.0}, r"score\(\) returned accuracy, which lacks macro_f1"),
        (
            {"accuracy": 1.0, "macro_f1": 1.0, "nll": 0.0, "ece": 0.0, "seed": 3.0},
            "names the column seed",
        ),
        ({**SCORES, "_odd": 1.0}, "names the column _odd"),
        ({**SCORES, "env_odd": 1.0}, "names the column env_odd"),
        ({**SCORES, "recipe_odd": 1.0}, "names the column recipe_odd"),
        ({**SCORES, 3: 1.0}, "names a score 3 that is no string"),
        ([0.5], r"score\(\) returned \[0.5\], which lacks accuracy"),
    ],
)
def test_scores_that_are_not_those_of_the_metrics_are_named(tiny_run, scored, message):
    task = type("Odd", (TinyTask,), {"score": lambda self, outcomes: scored})
    record = tiny_run("head-only", task=task)
    assert record.status == "failed"
    assert re.search(message, record.message), record.message


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("high", "'high'"),
        ("0.5", "'0.5'"),
        (True, "True"),
        (np.True_, "a bool"),
        (torch.tensor(True), "a tensor"),
        ([0.5], "a list"),
        (torch.ones(2), "a tensor"),
        (np.ones(2), "a ndarray"),
        (1j, "a complex"),
    ],
)
def test_a_score_that_is_no_number_is_named(tiny_run, value, said):
    class Odd(TinyTask):
        def score(self, outcomes):
            return {**SCORES, "nll": value}

    record = tiny_run("head-only", task=Odd)
    assert record.status == "failed"
    assert record.message.startswith(f"task 'tiny': the nll that score() returned is {said}")
    assert record.message.endswith("; expected a number")


def test_a_score_that_is_not_defined_is_missing(tiny_run):
    class Odd(TinyTask):
        def score(self, outcomes):
            return {**SCORES, "nll": None}

    record = tiny_run("head-only", task=Odd)
    assert record.status == "ok"
    assert record.scores.keys() >= {"accuracy"}
    assert "nll" not in record.scores


def detached(self, outputs, targets, **options):
    return TinyTask.loss(self, outputs, targets, **options).detach()


def answers(value):
    return lambda *_, **__: value


@pytest.mark.parametrize(
    ("method", "function", "message"),
    [
        ("loss", answers(None), r"loss\(\) returned None; expected a 0-dim tensor"),
        ("loss", answers(0.5), r"loss\(\) returned 0.5; expected a 0-dim tensor"),
        ("loss", answers((0.5, 1)), r"loss\(\) returned a tuple; expected a 0-dim tensor"),
        (
            "loss",
            lambda self, outputs, targets, **_: outputs.sum(dim=1),
            r"loss\(\) returned a tensor of shape \(5,\) and dtype torch.float32; expected a 0-d",
        ),
        ("loss", detached, r"loss\(\) returned a tensor without a gradient; compute it from"),
        ("head", answers(None), r"head\(\) returned None; expected a torch.nn.Module"),
        ("head", answers(len), r"head\(\) returned a builtin_function_or_method; expected a torch"),
        ("source", answers("letters"), r"source\(\) returned 'letters'; expected an ftbench.Sour"),
        (
            "test",
            answers((1, 2)),
            r"test\(\) returned a tuple, which has no to; expected examples",
        ),
        (
            "source",
            answers(ftbench.SourceTask("tiny-source", None, TinyTask().source().held_out)),
            r"source\(\).samples is None, which has no __len__; expected examples",
        ),
        (
            "source",
            answers(ftbench.SourceTask("tiny-source", TinyTask().source().samples, [1])),
            r"source\(\).held_out is a list, which has no to; exp",
        ),
    ],
)
def test_what_a_task_returns_is_named_where_it_is_something_else(
    tiny_run, method, function, message
):
    fixed = {"fingerprint": lambda self: "fixed"}
    record = tiny_run("full", task=type("Odd", (TinyTask,), {**fixed, method: function}))
    assert record.status == "failed"
    assert re.match(rf"task 'tiny': {message}", record.message), record.message
    assert not record.traceback


@pytest.mark.parametrize(
    ("method", "examples", "said"),
    [("pool", None, "None"), ("pool", (1, 2), "a tuple"), ("test", None, "None")],
)
def test_examples_that_are_none_are_named_when_a_sweep_is_planned(tiny_run, method, examples, said):
    fixed = {"fingerprint": lambda self: "fixed", method: answers(examples)}
    with pytest.raises(
        ftbench.FtbenchError, match=rf"task 'tiny': {method}\(\) returned {said}, which"
    ):
        tiny_run("full", task=type("Odd", (TinyTask,), fixed))


def test_a_detached_loss_is_named_where_a_penalty_has_a_gradient(tiny_run):
    class Decay(ftbench.Strategy):
        name = "decay"

        def penalty(self, model):
            return model.head.weight.square().sum()

    record = tiny_run(Decay, task=type("Odd", (TinyTask,), {"loss": detached}))
    assert record.message.startswith("task 'tiny': loss() returned a tensor without a gradient")


def backbone_of(stages, head=None):
    return ftbench.Backbone(stages, head)


@pytest.mark.parametrize(
    ("built", "message"),
    [
        (None, r"build\(\) returned None; expected an ftbench.Backbone"),
        ((1, 2), r"build\(\) returned a tuple; expected an ftbench.Backbone"),
        (backbone_of(dict(tiny_stages())), r"stages is a dict; expected a list of stages, each"),
        (backbone_of(None), r"stages is None; expected a list of stages"),
        (backbone_of([nn.Flatten()]), r"stages\[0\] is a Flatten; expected a list of stages"),
        (backbone_of([("a", len)]), r"the module of stages\[0\] is a builtin.*; expected a torch"),
        (backbone_of([(1, nn.Flatten())]), r"the name of stages\[0\] is 1; expected a string"),
        (
            backbone_of(tiny_stages(), len),
            r"source_head is a builtin.*; expected a torch.nn",
        ),
    ],
)
def test_what_a_backbone_returns_is_named_where_it_is_something_else(tiny_run, built, message):
    fixed = {"fingerprint": lambda self: "fixed", "build": answers(built)}
    record = tiny_run("full", backbone=type("Odd", (TinyNet,), fixed))
    assert record.status == "failed"
    assert re.match(rf"backbone 'tiny-net': {message}", record.message), record.message
    assert not record.traceback


def test_stages_may_come_from_a_generator(tiny_run):
    class Lazy(TinyNet):
        def build(self, *, pretrained):
            backbone = super().build(pretrained=pretrained)
            stages = (stage for stage in backbone.stages)
            return ftbench.Backbone(stages, backbone.source_head)

        def fingerprint(self):
            return "fixed"

    assert tiny_run("full", backbone=Lazy).scores == tiny_run("full").scores
