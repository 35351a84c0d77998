"""A backbone whose stages do not give what it declares is refused before anything trains."""

import re

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
            return ftbench.Backbone(stages(), source_head)

        def offers(self):
            return (ftbench.Offer("pooled", (features,)),)

        def fingerprint(self):
            return "fixed"

    return Net


class Trained(ftbench.Strategy):
    name = "trained"

    def prepare(self, model, data):
        raise AssertionError("prepare() was called")


WRONG = {
    "maps": (
        lambda: stages_ending_in(), 8,
        r"its pooled features, after the last stage 'end', are a tensor of shape \(N, 4, 4, 4\), "
        r"expected a tensor of shape \(N, 8\), as offers\(\) declares: give it a readout: "
        r"nn.AdaptiveAvgPool2d\(1\) and nn.Flatten\(\) for maps",
    ),
    "maps whose width fits a linear head": (
        lambda: stages_ending_in(), 4, r"'end', are a tensor of shape \(N, 4, 4, 4\), expected",
    ),
    "tokens": (
        lambda: stages_ending_in(nn.Flatten(2)), 16, r"\(N, 4, 16\), .*a mean for tokens",
    ),
    "another width": (
        lambda: stages_ending_in(*pooled(6)), 8, r"\(N, 6\), .*: offer widths=\(6,\), or end the",
    ),
    "a tuple": (
        lambda: stages_ending_in(*pooled(8), Returns(lambda x: (x, x))), 8,
        r"stage 'end' returns a tuple, expected a tensor or a flat dict of tensors, rows first: "
        r"return the features alone",
    ),
    "a dict": (
        lambda: stages_ending_in(*pooled(8), Returns(lambda x: {"features": x})), 8,
        r"'end', are a dict, expected a tensor of shape \(N, 8\).*: return the features alone",
    ),
    "a nested dict": (
        lambda: stages_ending_in(*pooled(8), Returns(lambda x: {"a": {"b": x}})), 8,
        r"stage 'end' returns a dict, expected .*: 'a' is a dict; name each tensor, nest none",
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
        r"stage 'stem' returns a tuple, expected a tensor or a flat dict",
    ),
    "another number of channels": (
        lambda: [("stem", nn.Conv2d(3, 4, 1)), *stages_ending_in(*pooled(8))[1:]], 8,
        r"stage 'stem' cannot take the task's inputs, a tensor of shape \(N, 1, 8, 8\): RuntimeErr",
    ),
    "no stage": (list, 8, r"has no stages; build\(\) must return at least one"),
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


def test_a_backbone_that_gives_what_it_declares_runs(tiny, tiny_run):
    backbone = net(tiny, lambda: stages_ending_in(*pooled(8)))
    assert tiny_run("full", backbone=backbone).status == "ok"
    squeezing = (nn.AdaptiveAvgPool2d(1), Returns(torch.squeeze), nn.Linear(4, 8))
    backbone = net(tiny, lambda: stages_ending_in(*squeezing))
    assert tiny_run("full", backbone=backbone).status == "ok"


def maps_net(tiny, width=4, readouts=None):
    class Maps(net(tiny, lambda: stages_ending_in())):
        source = None

        def build(self, *, pretrained):
            return ftbench.Backbone(stages_ending_in(), readouts=readouts or {})

        def offers(self):
            return (ftbench.Offer("maps", (width,), strides=(2,)), ftbench.Offer("pooled", (4,)))

    return Maps


def test_a_task_takes_the_first_kind_that_it_needs_and_the_backbone_offers(tiny, tiny_run):
    seen = []

    class OfMaps(tiny.Task):
        needs = ("tokens", "maps", "pooled")

        def head(self, offer, *, seed):
            seen.append(offer)
            return nn.Sequential(*pooled(3))

    assert tiny_run("full", task=OfMaps, backbone=maps_net(tiny)).status == "ok"
    assert seen == [ftbench.Offer("maps", (4,), strides=(2,))]
    wrong = tiny_run("full", task=OfMaps, backbone=maps_net(tiny, width=5))
    assert re.search(r"its maps features.*expected a tensor of shape \(N, 5, H, W\)", wrong.message)


def test_a_readout_makes_a_kind_of_what_the_last_stage_returns(tiny, tiny_run):
    readouts = {"pooled": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())}
    assert tiny_run("full", backbone=maps_net(tiny, readouts=readouts)).status == "ok"
    assert "give it a readout" in tiny_run("full", backbone=maps_net(tiny)).message
    parametric = {"pooled": nn.Sequential(*readouts["pooled"], nn.Linear(4, 4))}
    message = tiny_run("full", backbone=maps_net(tiny, readouts=parametric)).message
    assert "the readout of pooled has parameters, which would not train" in message


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
    offer = ftbench.Offer("pooled", (8,))
    check_features("tiny-net", model, offer, torch.ones(2, 1, 8, 8))
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
    assert torch.equal(draws, torch.get_rng_state())


def test_readouts_are_modules_by_kind():
    stages = [("only", nn.Flatten())]
    with pytest.raises(ftbench.FtbenchError, match=r"'x': readouts is a list; expected a dict"):
        check_declared("x", ftbench.Backbone(stages, readouts=[nn.Flatten()]))
    with pytest.raises(ftbench.FtbenchError, match=r"the readout of maps is 3; expected a torch"):
        check_declared("x", ftbench.Backbone(stages, readouts={"maps": 3}))
