"""Parameters that several parts hold: the first that holds one owns it, whatever asks."""

import copy
import itertools
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ftbench
from ftbench import rng
from ftbench.backbone import parameter_count
from ftbench.recipe import Recipe
from ftbench.recipes.optimizers import AdamW
from ftbench.strategies.ewc import EWC, EWCOptions
from ftbench.strategies.head_only import HeadOnly
from ftbench.strategies.l2sp import L2SP
from ftbench.train import train
from ftbench.train.freezing import Freezer
from ftbench.train.optimizer import build_optimizer
from tests.support import data_of, made

ALL = ("scratch", "full", "partial", "progressive", "head-only", "l2sp", "ewc")


class Twice(nn.Module):
    """One layer under two names, and its weight under a third."""

    def __init__(self, layer):
        super().__init__()
        self.first, self.second, self.weight = layer, layer, layer.weight

    def forward(self, x):
        return F.linear(self.second(self.first(x)), self.weight)


def blocks(count=3):
    return [nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.1), nn.Tanh()) for _ in range(count)]


def stage_and_stage():
    stages = blocks()
    stages[2][0].weight = stages[0][0].weight
    return stages, nn.Linear(6, 3)


def stage_and_head():
    stages, head = blocks(), nn.Linear(6, 6)
    head.weight = stages[1][0].weight
    return stages, head


def the_same_stage_again():
    stages = blocks()
    return [stages[0], stages[1], stages[0]], nn.Linear(6, 3)


def twice_in_a_stage():
    stages = blocks()
    return [stages[0], Twice(nn.Linear(6, 6)), stages[2]], nn.Linear(6, 3)


def a_layer_of_a_stage_in_the_head():
    stages = blocks()
    return stages, nn.Sequential(stages[0][0], nn.Linear(6, 3))


TIES = [
    stage_and_stage,
    stage_and_head,
    the_same_stage_again,
    twice_in_a_stage,
    a_layer_of_a_stage_in_the_head,
]


def tied_model(tie):
    torch.manual_seed(0)
    stages, head = tie()
    return ftbench.Model([(f"stage{i}", stage) for i, stage in enumerate(stages)], head)


def owners_by_hand(model):
    """Return the index of the first part that holds each parameter."""
    owners = {}
    for index, module in enumerate([*model.stages, model.head]):
        for parameter in module.parameters():
            owners.setdefault(parameter, index)
    return owners


class Some(ftbench.Strategy):
    """Trains the parts of some indices."""

    name = "some"

    def __init__(self, indices):
        super().__init__()
        self.indices = indices

    def trains(self, stage, progress):
        return stage.index in self.indices


@pytest.fixture
def examples():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(20, 6, generator=generator)
    return ftbench.TensorExamples(inputs, torch.randint(3, (20,), generator=generator))


@pytest.fixture
def fit(tiny, examples):
    def run(model, strategy, **recipe):
        recipe = Recipe(**{"steps": 3, "batch_size": 5, "learning_rate": 0.05, **recipe})
        loss = tiny.task().loss
        return train(
            model, examples, strategy=strategy, recipe=recipe, made=made(recipe), loss=loss, seed=0
        )

    return run


@pytest.mark.parametrize("tie", TIES)
def test_each_parameter_is_owned_once_by_the_first_part_that_holds_it(tie):
    model = tied_model(tie)
    found = {p: part.stage.index for part in model.owned() for p in part.parameters.values()}
    assert found == owners_by_hand(model)
    names = [name for part in model.owned() for name in part.parameters]
    assert names == [name for name, _ in model.named_parameters()]
    assert set(model.shared_parameters().values()) == {p for p, i in found.items() if i < 3}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("tie", TIES)
def test_a_shared_parameter_trains_where_its_owner_does(fit, tie, optimizer):
    for count in (1, 2, 3, 4):
        for trained in itertools.combinations(range(4), count):
            model = tied_model(tie)
            owners, before = owners_by_hand(model), copy.deepcopy(model.state_dict())
            expected = {p for p, index in owners.items() if index in trained}
            if not expected:
                continue
            log = fit(model, Some(trained), optimizer=optimizer)
            names = dict(model.named_parameters())
            moved = {p for name, p in names.items() if not torch.equal(before[name], p)}
            assert moved == expected, (tie, trained)
            assert log.trainable_parameters == sum(p.numel() for p in expected)


@pytest.mark.parametrize("tie", TIES)
def test_gradients_of_what_trains_are_those_of_all_its_uses(tie, examples):
    """The frozen prefix cuts off no use of a parameter that trains."""
    for count in (1, 2, 3, 4):
        for trained in itertools.combinations(range(4), count):
            model = tied_model(tie).eval()
            freezer = Freezer(model, Some(trained), update_statistics=True)
            freezer.apply(0.0)
            model.eval()
            trainable = [p for p in model.parameters() if p.requires_grad]
            if not trainable:
                continue
            cut = model(examples.inputs, freezer.frozen_stages).square().sum()
            whole = model(examples.inputs).square().sum()
            for found, expected in zip(
                torch.autograd.grad(cut, trainable, allow_unused=True),
                torch.autograd.grad(whole, trainable, allow_unused=True),
                strict=True,
            ):
                torch.testing.assert_close(found, expected)


def test_a_module_that_two_stages_share_is_in_its_owners_mode():
    for trained, mode in (((0,), True), ((2, 3), False)):
        model = tied_model(the_same_stage_again)
        Freezer(model, Some(trained), update_statistics=True).apply(0.0)
        assert {m.training for m in model.stages[2].modules()} == {mode}


def test_decay_and_rate_are_those_of_the_owner():
    class OfTheHead(ftbench.Strategy):
        name = "of-the-head"

        def decays(self, stage):
            return stage.is_head

    model = tied_model(stage_and_head)
    groups = build_optimizer(model, OfTheHead(), 0.5, AdamW()).param_groups
    by_parameter = {p: group for group in groups for p in group["params"]}
    assert set(by_parameter) == set(model.parameters())
    assert by_parameter[model.head.weight]["stage"].index == 1
    assert by_parameter[model.head.weight]["weight_decay"] == 0


def test_l2sp_pulls_a_shared_parameter_once_and_to_its_start():
    model, strategy = tied_model(stage_and_head), L2SP()
    strategy.prepare(model, data_of())
    penalty = strategy.penalty(model)
    strengths = dict(zip(penalty.parameters, penalty.strength, strict=True))
    assert len(penalty.parameters) == len(set(penalty.parameters)) == len(list(model.parameters()))
    assert strengths[model.head.weight] == strategy.options.alpha
    assert strengths[model.head.bias] == strategy.options.beta


def fisher_by_hand(whole, parameters, examples):
    total = [torch.zeros_like(p) for p in parameters]
    for row in range(len(examples)):
        loss = F.cross_entropy(
            whole(examples.inputs[row : row + 1]), examples.targets[row : row + 1]
        )
        for sum_, gradient in zip(total, torch.autograd.grad(loss, parameters), strict=True):
            sum_ += gradient**2 / len(examples)
    return total


@pytest.mark.parametrize("tie", TIES)
def test_ewc_counts_every_use_of_a_shared_parameter(tie, examples):
    model = tied_model(tie)
    source_head = nn.Linear(6, 6)
    source_head.weight = next(p for p in model.stages[1].parameters() if p.shape == (6, 6))
    strategy = EWC(EWCOptions(fisher="empirical", strength=1.0))
    state = [*model.named_parameters(remove_duplicate=False)]
    strategy.prepare(model, data_of(ftbench.Source(examples, source_head)))
    after = [*model.named_parameters(remove_duplicate=False)]
    assert [(name, id(p)) for name, p in after] == [(name, id(p)) for name, p in state]
    whole = nn.Sequential(*model.stages, source_head).eval()
    penalty = strategy.penalty(model)
    expected = fisher_by_hand(whole, list(penalty.parameters), examples)
    assert set(penalty.parameters) == set(model.shared_parameters().values())
    for found, fisher in zip(penalty.strength, expected, strict=True):
        torch.testing.assert_close(found, fisher, rtol=1e-4, atol=1e-7)


def tied_net(tiny):
    """Return a family whose third stage shares with the second, and the source head with both."""

    class TiedNet(tiny.Backbone):
        def build(self, *, pretrained):
            backbone = super().build(pretrained=pretrained)
            with rng.isolated("tied net"):
                stages = [*backbone.stages[:2], ("flat", nn.Flatten()), *blocks_of(backbone)]
                head = nn.Linear(8, 8)
            head.weight = stages[3][1][1].weight
            return ftbench.Backbone(stages, head if pretrained else None)

    def blocks_of(backbone):
        first = nn.Sequential(backbone.stages[2][1], nn.Linear(8, 8), nn.Tanh())
        second = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        second[0].weight = first[1].weight
        return [("third", first), ("fourth", second)]

    return TiedNet


@pytest.mark.parametrize("strategy", ALL)
def test_every_strategy_runs_on_a_backbone_with_shared_parameters(tiny, tiny_run, strategy):
    record = tiny_run(strategy, backbone=tied_net(tiny), weight_decay=0.1, steps=6)
    assert record.status == "ok", record.message
    model = ftbench.Model(tied_net(tiny)().build(pretrained=True).stages, nn.Linear(8, 3))
    assert record.costs["total_parameters"] == parameter_count(model)
    expected = {"head-only": 27, "partial": 27 + 8}.get(strategy, parameter_count(model))
    assert record.costs["trainable_parameters"] == expected


def test_a_source_head_that_shares_with_a_stage_still_does_where_a_strategy_sees_it(tiny, tiny_run):
    seen = []

    class Looks(ftbench.Strategy):
        name = "looks"

        def prepare(self, model, data):
            seen.append(data.source.head.weight is model.stages[3][1].weight)
            seen.append(data.source.head.bias is not None)

    assert tiny_run(Looks, backbone=tied_net(tiny)).status == "ok"
    assert seen == [True, True]


class TiesTheHead(HeadOnly):
    name = "ties-the-head"

    def prepare(self, model, data):
        model.head = nn.Linear(8, 3, bias=False)
        model.stages[1][0].tied = model.head.weight


class HasNoHead(HeadOnly):
    name = "has-no-head"

    def prepare(self, model, data):
        model.head = nn.Identity()


class FreezesTheHead(HeadOnly):
    name = "freezes-the-head"

    def prepare(self, model, data):
        model.head.requires_grad_(False)


@pytest.mark.parametrize(
    ("strategy", "reason"),
    [
        (TiesTheHead, "head shares its parameters with body, which came first and so owns them"),
        (HasNoHead, "head holds no parameter; choose"),
        (FreezesTheHead, r"prepare\(\) switched off requires_grad of all that head owns"),
    ],
)
@pytest.mark.parametrize("recipe", [{}, {"patience": 1, "size": 30}])
def test_a_run_in_which_nothing_can_train_says_why(tiny_run, strategy, reason, recipe):
    record = tiny_run(strategy, **recipe)
    assert record.status == "failed"
    start = f"strategy '{strategy.name}' trained nothing in this run: "
    assert record.message.startswith(start)
    assert re.search(reason, record.message), record.message


def test_parameters_that_prepare_replaces_are_owned_as_they_are_then(fit):
    model = tied_model(stage_and_stage)
    model.stages[0][0].weight = nn.Parameter(torch.eye(6))  # no longer shared
    before = copy.deepcopy(model.state_dict())
    fit(model, Some((0,)))
    assert not torch.equal(model.stages[0][0].weight, before["stages.0.0.weight"])
    assert torch.equal(model.stages[2][0].weight, before["stages.2.0.weight"])
