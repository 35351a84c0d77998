"""A backbone whose stages do not give what it declares is refused before anything trains."""

import re

import numpy as np
import pytest
import torch
from torch import nn

import ftbench
from ftbench.train import check_declared, check_features


class Returns(nn.Module):
    """Passes its input on in another form, and sees what trains."""

    def __init__(self, form):
        super().__init__()
        self.form, self.scale = form, nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.form(self.scale * x)


def stages_ending_in(*last):
    return [("stem", nn.Conv2d(1, 4, 3, 2, 1)), ("end", nn.Sequential(nn.ReLU(), *last))]


def pooled(width=4):
    return (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, width))


def net(tiny, stages, features=8, head=None):
    class Net(tiny.Backbone):
        def build(self, *, pretrained):
            torch.manual_seed(0)
            source_head = nn.Linear(8, 4) if head is None and pretrained else head
            return ftbench.Backbone(stages(), features, source_head)

        def fingerprint(self):
            return "fixed"

    return Net


class Trained(ftbench.Strategy):
    name = "trained"

    def prepare(self, model, source):
        raise AssertionError("prepare() was called")


WRONG = {
    "maps": (
        lambda: stages_ending_in(), 8,
        r"the last stage 'end' returns a tensor of shape \(N, 4, 4, 4\), expected a tensor of "
        r"shape \(N, 8\), as features=8 declares: end it with a pooling, nn.AdaptiveAvgPool2d\(1\)"
        r" and nn.Flatten\(\)",
    ),
    "maps whose width fits a linear head": (
        lambda: stages_ending_in(), 4, r"'end' returns a tensor of shape \(N, 4, 4, 4\), expected",
    ),
    "tokens": (
        lambda: stages_ending_in(nn.Flatten(2)), 16, r"\(N, 4, 16\), .*or a mean over tokens",
    ),
    "another width": (
        lambda: stages_ending_in(*pooled(6)), 8, r"\(N, 6\), .*: declare features=6, or end the",
    ),
    "a tuple": (
        lambda: stages_ending_in(*pooled(8), Returns(lambda x: (x, x))), 8,
        r"'end' returns a tuple, expected a tensor of shape \(N, 8\).*: return the features alone",
    ),
    "a dict": (
        lambda: stages_ending_in(*pooled(8), Returns(lambda x: {"features": x})), 8,
        r"'end' returns a dict, expected",
    ),
    "none": (
        lambda: stages_ending_in(*pooled(8), Returns(lambda x: None)), 8, r"'end' returns a None",
    ),
    "rows in a row": (
        lambda: stages_ending_in(*pooled(8), Returns(lambda x: x.flatten())), 8,
        r"return one row for each of the inputs, here 2, not \(16,\)",
    ),
    "rows that were mixed with pixels": (
        lambda: stages_ending_in(Returns(lambda x: x.flatten(0, 2))), 4, r"here 2, not \(32, 4\)",
    ),
    "whole numbers": (
        lambda: stages_ending_in(*pooled(8), Returns(lambda x: x.long())), 8,
        r"a tensor of torch.int64 of shape \(N, 8\).*: return floating-point features",
    ),
    "a tuple within": (
        lambda: [("stem", Returns(lambda x: (x, x))), *stages_ending_in(*pooled(8))[1:]], 8,
        r"stage 'end' cannot take what stage 'stem' returns, a tuple: TypeError",
    ),
    "another number of channels": (
        lambda: [("stem", nn.Conv2d(3, 4, 1)), *stages_ending_in(*pooled(8))[1:]], 8,
        r"stage 'stem' cannot take the task's inputs, a tensor of shape \(N, 1, 8, 8\): RuntimeErr",
    ),
    "no stage": (list, 8, r"has no stages; build\(\) must return at least one"),
    "width 0": (lambda: stages_ending_in(*pooled(8)), 0, r"declares features=0; expected the wid"),
    "width a float": (lambda: stages_ending_in(*pooled(8)), 8.0, r"declares features=8\.0; expec"),
    "width none": (lambda: stages_ending_in(*pooled(8)), None, r"declares features=None; expecte"),
}  # fmt: skip


@pytest.mark.parametrize("strategy", [Trained, "ewc", "scratch"])
@pytest.mark.parametrize("case", WRONG)
def test_a_backbone_that_gives_something_else_is_named_before_anything_trains(
    tiny, tiny_run, case, strategy
):
    stages, features, message = WRONG[case]
    record = tiny_run(strategy, backbone=net(tiny, stages, features))
    assert record.status == "failed"
    assert record.message.startswith("backbone 'tiny-net'")
    assert re.search(message, record.message), record.message


@pytest.mark.parametrize("features", [8, np.int64(8)])
def test_a_backbone_that_gives_what_it_declares_runs(tiny, tiny_run, features):
    backbone = net(tiny, lambda: stages_ending_in(*pooled(8)), features)
    assert tiny_run("full", backbone=backbone).status == "ok"
    squeezing = (nn.AdaptiveAvgPool2d(1), Returns(torch.squeeze), nn.Linear(4, 8))
    backbone = net(tiny, lambda: stages_ending_in(*squeezing), features)
    assert tiny_run("full", backbone=backbone).status == "ok"


def test_a_task_whose_own_head_takes_maps_keeps_its_backbone(tiny, tiny_run):
    class OfMaps(tiny.Task):
        def source(self):
            return None

        def head(self, features, *, dropout, seed):
            return nn.Sequential(*pooled(3))

    class OfTokens(OfMaps):
        def head(self, features, *, dropout, seed):
            return nn.Linear(99, 3)

    maps = net(tiny, lambda: stages_ending_in())
    assert tiny_run("full", task=OfMaps, backbone=maps).status == "ok"
    assert (
        "returns a tensor of shape (N, 4, 4, 4)"
        in tiny_run("full", task=OfTokens, backbone=maps).message
    )


def test_a_source_head_of_another_width_is_named(tiny, tiny_run):
    stages = net(tiny, lambda: stages_ending_in(*pooled(8)), head=nn.Linear(16, 4))
    record = tiny_run(Trained, backbone=stages)
    assert record.status == "failed"
    assert record.message.startswith(
        "backbone 'tiny-net': the source head cannot take what stage 'end' returns, a tensor of "
        "shape (N, 8): RuntimeError"
    )


def test_what_a_stage_raised_is_kept_as_a_traceback(tiny, tiny_run):
    def broken(x):
        raise KeyError("typo")

    record = tiny_run(backbone=net(tiny, lambda: stages_ending_in(Returns(broken))))
    assert "stage 'end' cannot take" in record.message
    assert "in broken" in record.traceback


def test_want_of_memory_in_a_stage_stays_that(tiny, tiny_run):
    def greedy(x):
        raise torch.OutOfMemoryError("no room")

    record = tiny_run(backbone=net(tiny, lambda: stages_ending_in(Returns(greedy))))
    assert record.status == "out-of-memory"


def test_the_look_leaves_no_trace(tiny_model):
    model = tiny_model().train()
    model.stages[1].eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    draws = torch.get_rng_state()
    check_features("tiny-net", model, 8, torch.ones(2, 1, 8, 8), any_kind=False)
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
    assert torch.equal(draws, torch.get_rng_state())


def test_a_bool_is_no_width():
    with pytest.raises(ftbench.FtbenchError, match=r"'x' declares features=True"):
        check_declared("x", ftbench.Backbone([("only", nn.Flatten())], True))
