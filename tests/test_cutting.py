"""Image models cut into stages: the same bits, parameters and gradients as the model."""

import copy
import dataclasses
import pickle

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from ftbench.backbones.cutting import cut_image_model, difference
from ftbench.errors import SpecError

# The smallest of each family of torchvision that is cut, and the size it is run at.
FAMILIES = {
    "alexnet": 64, "convnext_tiny": 32, "densenet121": 32, "efficientnet_b0": 32,
    "efficientnet_v2_s": 32, "maxvit_t": 224, "mnasnet0_5": 32, "mobilenet_v2": 32,
    "mobilenet_v3_small": 32, "regnet_y_400mf": 32, "resnet18": 32, "resnet50": 32,
    "shufflenet_v2_x0_5": 32, "swin_t": 32, "swin_v2_t": 32, "vgg11_bn": 32, "vit_b_16": 32,
}  # fmt: skip
LARGE = (
    "maxvit_t",
    "vgg11_bn",
    "vit_b_16",
)  # slow; their blocks are tried in the other grain alone


def images(size, batch=2):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def made(name):
    torch.manual_seed(0)
    options = {"image_size": FAMILIES[name]} if name.startswith("vit") else {}
    return models.get_model(name, weights=None, **options)


CASES = [
    (name, grain) for name in FAMILIES for grain in ("stage", "block")
    if grain == "stage" or name not in LARGE
]  # fmt: skip


@pytest.mark.parametrize(("name", "grain"), CASES)
def test_a_cut_model_has_the_bits_and_parameters_of_the_model(name, grain):
    model, size = made(name), FAMILIES[name]
    before = copy.deepcopy(model.state_dict())
    cut = cut_image_model(model, images(size), grain=grain)
    assert len(cut.stages) >= 4
    names = [stage for stage, _ in cut.stages]
    assert len(set(names)) == len(names)
    # Nothing of the model moved, its running statistics among them.
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    # Its own modules under their own names.
    keys = {key for _, stage in cut.stages for key in stage.state_dict()}
    assert keys <= set(before)
    assert model.training


@pytest.mark.parametrize("name", ["densenet121", "efficientnet_b0", "resnet18", "swin_t"])
def test_gradients_are_those_of_the_model(name):
    model = made(name).train()
    cut = cut_image_model(model, images(64))
    whole, apart = (
        copy.deepcopy(model),
        copy.deepcopy(nn.Sequential(*(module for _, module in cut.stages), cut.head)),
    )
    for module in (whole, apart):
        torch.manual_seed(0)
        module(images(64)).square().sum().backward()
    expected = [p.grad for p in whole.parameters()]
    found = [p.grad for p in apart.parameters()]
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_stages_have_the_names_that_a_reader_of_the_model_knows():
    cut = cut_image_model(made("resnet18"), images(64))
    assert [name for name, _ in cut.stages] == ["stem", "layer1", "layer2", "layer3", "layer4"]
    assert type(cut.head) is nn.Linear
    blocks = [
        name for name, _ in cut_image_model(made("resnet18"), images(64), grain="block").stages
    ]
    assert blocks == ["stem", *(f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1))]


def test_stages_are_copied_pickled_and_run_at_other_sizes():
    cut = cut_image_model(made("resnet18"), images(64))
    stages = nn.Sequential(*(module for _, module in cut.stages)).eval()
    for again in (copy.deepcopy(stages), pickle.loads(pickle.dumps(stages))):
        assert torch.equal(again(images(96, 3)), stages(images(96, 3)))


def test_draws_are_the_callers():
    model = made("efficientnet_b0")  # with dropout
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    cut_image_model(model, images(32))
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_models_with_auxiliary_classifiers_are_cut_without_those(name):
    options = {"weights": None, "init_weights": False}
    with pytest.raises(SpecError, match=r"classifier takes \(2, \d+, \d, \d\); expected vectors"):
        cut_image_model(models.get_model(name, **options), images(96), classifier="fc")
    cut = cut_image_model(models.get_model(name, **options, aux_logits=False), images(96))
    assert len(cut.stages) > 10


class Running(nn.Module):
    """A model that keeps what it saw: training must move the statistics alike."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(48, 8), nn.BatchNorm1d(8)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.norm(self.first(x.flatten(1))))


def test_statistics_that_move_otherwise_are_noticed():
    model = Running()
    cut = cut_image_model(model, images(4))
    assert [name for name, _ in cut.stages] == ["first"]
    stage = copy.copy(cut.stages[0][1])
    stage.norm = copy.copy(model.norm)  # the same parameters
    stage.norm.momentum = 0.9
    moved = dataclasses.replace(cut, stages=(("first", stage),))
    assert "differ from the model's in eval mode" in difference(model, moved, images(4))


class Frozen(nn.Module):
    """A model whose forward() asks for its mode: a trace keeps the answer that it got."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(48, 8), nn.Linear(8, 8)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        x = self.second(self.first(x.flatten(1)).relu())
        return self.fc(x * 2 if self.training else x)


class Branching(Frozen):
    def forward(self, x):
        return self.fc(self.first(x.flatten(1)) if x.sum() > 0 else x)


def test_what_cannot_be_cut_is_refused_with_the_reason():
    with pytest.raises(SpecError, match=r"Frozen .*differ from the model's in eval mode"):
        cut_image_model(Frozen().train(), images(4))
    with pytest.raises(SpecError, match="Branching cannot be cut into stages: tracing it failed"):
        cut_image_model(Branching(), images(4))
    with pytest.raises(SpecError, match="Frozen has no layer 'head'"):
        cut_image_model(Frozen(), images(4), classifier="head")
    with pytest.raises(SpecError, match="names no layer of Frozen"):
        cut_image_model(Frozen(), images(4), classifier=())
    with pytest.raises(SpecError, match="no linear layer"):
        cut_image_model(models.get_model("squeezenet1_1", weights=None), images(64))


def test_a_stage_that_was_exchanged_is_noticed():
    model = made("resnet18")
    cut = cut_image_model(model, images(64))
    other = cut_image_model(made("resnet18"), images(64))
    assert "a parameter that the model does not" in difference(model, other, images(64))
    shorter = dataclasses.replace(cut, stages=cut.stages[:-1])
    assert "parameters are in no stage" in difference(model, shorter, images(64))


# A model of each of ten of timm's modules: the size it is run at, and how many stages it has.
TIMM = {
    "cs3darknet_s": (64, 5), "convnextv2_femto": (64, 5), "edgenext_xx_small": (64, 5),
    "efficientvit_b0": (64, 6), "mobilevitv2_050": (64, 6), "pit_ti_224": (224, 4),
    "skresnet18": (64, 5), "test_efficientnet_evos": (64, 6), "test_vit_relpos": (160, 10),
    "tf_efficientnet_lite0": (64, 8),
}  # fmt: skip


class TwoHeads(nn.Module):
    """Answers with the mean of two heads, as models do that were distilled."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(48, 8), nn.Linear(8, 8)
        self.fc, self.taught = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x):
        x = self.second(self.first(x.flatten(1)).relu())
        return (self.fc(x) + self.taught(x)) / 2


def test_several_classifiers_are_one_head():
    model = TwoHeads()
    cut = cut_image_model(model, images(4), classifier=("fc", "taught"))
    assert [name for name, _ in cut.stages] == ["first", "second"]
    assert {*cut.head.state_dict()} == {"fc.weight", "fc.bias", "taught.weight", "taught.bias"}
    with pytest.raises(SpecError, match="TwoHeads has no layer 'third'"):
        cut_image_model(model, images(4), classifier=("fc", "third"))


@pytest.mark.parametrize("name", TIMM)
def test_models_of_timm_are_cut_by_the_same_rules(name):
    size, stages = TIMM[name]
    torch.manual_seed(0)
    model = timm.create_model(name)
    cut = cut_image_model(model, images(size), classifier=model.pretrained_cfg["classifier"])
    found = [stage for stage, _ in cut.stages]
    assert len(found) == stages, found
    trunk = nn.Sequential(*(stage for _, stage in cut.stages)).eval()
    with torch.no_grad():
        assert trunk(images(size)).shape[1] == model.head_hidden_size


def test_the_first_stage_is_the_stem_and_what_follows_the_last_block_is_in_its_stage():
    model = timm.create_model("tf_efficientnet_lite0")
    cut = cut_image_model(model, images(64), classifier="classifier")
    assert [name for name, _ in cut.stages] == ["stem", *(f"blocks.{i}" for i in range(7))]
    last = cut.stages[-1][1]
    assert {"conv_head", "bn2"} <= {name.split(".")[0] for name, _ in last.named_parameters()}
