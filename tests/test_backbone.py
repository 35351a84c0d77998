import pytest
import torch
from torch import nn

import ftbench
from ftbench.backbone import Stage, parameter_count, undecayed_parameters


def test_a_stage_knows_its_distance_from_the_head():
    stages = [Stage(index, 3, "part") for index in range(4)]
    assert [stage.from_top for stage in stages] == [3, 2, 1, 0]
    assert [stage.is_head for stage in stages] == [False, False, False, True]


def test_parts_are_the_stages_from_the_input_and_then_the_head(tiny_model):
    model = tiny_model()
    parts = model.parts()
    assert [(p.index, p.depth, p.name) for p, _ in parts] == [
        (0, 3, "stem"), (1, 3, "body"), (2, 3, "top"), (3, 3, "head"),
    ]  # fmt: skip
    assert [module for _, module in parts] == [*model.stages, model.head]


@pytest.mark.parametrize("frozen", range(4))
def test_a_model_is_the_head_of_its_stages_in_order(tiny, tiny_model, frozen):
    model, inputs = tiny_model().eval(), tiny.task().pool().inputs[:5]
    expected = inputs
    for stage in model.stages:
        expected = stage(expected)
    assert torch.equal(model.features(inputs, frozen), expected)
    assert torch.equal(model(inputs, frozen), model.head(expected))


@pytest.mark.parametrize("frozen", range(4))
def test_gradients_stop_at_the_frozen_stages(tiny, tiny_model, frozen):
    model = tiny_model()
    model(tiny.task().pool().inputs, frozen).sum().backward()
    reached = [any(p.grad is not None for p in stage.parameters()) for stage in model.stages]
    assert reached == [index >= frozen for index in range(3)]
    assert model.head.weight.grad is not None


def test_activations_may_be_nested():
    class Split(nn.Module):
        def forward(self, x):
            return {"left": x, "right": [x + 1]}

    class Join(nn.Module):
        def forward(self, parts):
            return parts["left"] * parts["right"][0]

    model = ftbench.Model([("split", Split()), ("join", Join())], nn.Identity())
    assert model(torch.tensor([3.0]), 1).item() == 12


def test_shared_parameters_are_the_backbones(tiny_model):
    model = tiny_model()
    shared = model.shared_parameters()
    assert [id(p) for p in shared.values()] == [id(p) for p in model.stages.parameters()]
    assert dict(model.named_parameters())["stages.0.0.weight"] is shared["stages.0.0.weight"]


def test_parameters_are_counted_by_scalar_whether_they_train_or_not():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).requires_grad_(False)
    assert parameter_count(model) == 12 + 4 + 4 + 4


def test_biases_and_norms_are_told_from_weights(tiny_model):
    model = tiny_model()
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)] for p in undecayed_parameters(model)} == {
        "stages.0.1.weight", "stages.0.1.bias", "stages.1.0.bias", "stages.1.1.weight",
        "stages.1.1.bias", "stages.2.2.bias", "head.bias",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("method", "options"), [("build", {"pretrained": True}), ("fingerprint", {})]
)
def test_a_family_says_which_method_it_lacks(method, options):
    class Bare(ftbench.BackboneFamily):
        name = "bare"

    with pytest.raises(NotImplementedError, match=rf"backbone 'bare' must define {method}\(\)"):
        getattr(Bare(), method)(**options)


def test_biases_of_recurrent_layers_and_scales_of_foreign_norms_take_no_decay():
    class ForeignNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))

    module = nn.ModuleDict({"rnn": nn.LSTM(3, 4), "norm": ForeignNorm()})
    named = dict(module.named_parameters())
    undecayed = {name for name, p in named.items() if p in undecayed_parameters(module)}
    assert undecayed == {"rnn.bias_ih_l0", "rnn.bias_hh_l0", "norm.scale"}
