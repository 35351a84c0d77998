import math

import pytest
import torch
from torch import nn

import ftbench
from ftbench.recipe import Recipe
from ftbench.recipe_parts import Schedule
from ftbench.recipes.optimizers import SGD, AdamW, SGDOptions
from ftbench.train.freezing import Freezer
from ftbench.train.optimizer import build_optimizer, checked_factor, set_rates


class PerStage(ftbench.Strategy):
    """Rates 1, 0.5, 0.25 and 0 from stem to head, doubled in the second half."""

    name = "per-stage"

    def rate(self, stage, progress):
        return (1.0, 0.5, 0.25, 0.0)[stage.index] * (2 if progress >= 0.5 else 1)


class Rates(ftbench.Strategy):
    name = "rates"
    value = 1.0

    def rate(self, stage, progress):
        return self.value


def settings(optimizer, model, key):
    """Return the group's ``key`` for every parameter, by name."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {names[p]: group[key] for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(found)
    return found


def rates_of(model, strategy, progress):
    """Return the factor of each part as the loop asks for them."""
    freezer = Freezer(model, strategy, update_statistics=False)
    freezer.apply(progress)
    return freezer.rates


DECAYED = {"stages.0.0.weight", "stages.1.0.weight", "stages.2.2.weight", "head.weight"}


@pytest.mark.parametrize("optimizer", [AdamW(), SGD()], ids=lambda made: made.name)
def test_biases_and_norms_take_no_weight_decay(tiny_model, optimizer):
    model = tiny_model()
    built = build_optimizer(model, ftbench.Strategy(), 0.3, optimizer)
    found = settings(built, model, "weight_decay")
    assert {name: decay for name, decay in found.items() if decay} == dict.fromkeys(DECAYED, 0.3)
    assert set(found) == {name for name, _ in model.named_parameters()}


def test_every_kind_of_norm_and_bias_is_spared():
    stage = nn.Sequential(
        nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.RMSNorm(4), nn.BatchNorm1d(4), nn.InstanceNorm1d(4),
        nn.MultiheadAttention(4, 2),
    )  # fmt: skip
    model = ftbench.Model([("mixed", stage)], nn.Linear(4, 2))
    optimizer = build_optimizer(model, ftbench.Strategy(), 0.3, AdamW())
    found = settings(optimizer, model, "weight_decay")
    assert {name for name, decay in found.items() if decay} == {
        "stages.0.5.in_proj_weight", "stages.0.5.out_proj.weight", "head.weight",
    }  # fmt: skip


def test_a_strategy_may_spare_a_part_from_decay(tiny_model):
    class HeadAlone(ftbench.Strategy):
        name = "head-alone"

        def decays(self, stage):
            return stage.is_head

    model = tiny_model()
    optimizer = build_optimizer(model, HeadAlone(), 0.3, AdamW())
    found = settings(optimizer, model, "weight_decay")
    assert {name for name, decay in found.items() if decay} == {"head.weight"}


def test_the_built_in_optimizers_are_torchs_with_their_options(tiny_model):
    def built(optimizer):
        return build_optimizer(tiny_model(), ftbench.Strategy(), 0.01, optimizer)

    adamw, sgd = built(AdamW()), built(SGD(SGDOptions(momentum=0.8)))
    plain = built(SGD(SGDOptions(momentum=0.0)))
    assert type(adamw) is torch.optim.AdamW
    assert adamw.defaults["betas"] == (0.9, 0.999)
    assert type(sgd) is torch.optim.SGD
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"]) == (0.8, True)
    assert (plain.defaults["momentum"], plain.defaults["nesterov"]) == (0.0, False)


@pytest.mark.parametrize(("step", "expected"), [(0, (8, 4, 2, 0)), (5, (16, 8, 4, 0))])
def test_a_strategys_rates_reach_every_group(tiny_model, step, expected):
    model, strategy = tiny_model(), PerStage()
    optimizer = build_optimizer(model, strategy, 0.0, AdamW())
    set_rates(optimizer, rates_of(model, strategy, step / 10), Recipe(learning_rate=8), 1.0)
    for name, rate in settings(optimizer, model, "lr").items():
        index = 3 if name.startswith("head") else int(name.split(".")[1])
        assert rate == expected[index]


def test_head_factor_and_schedule_multiply_the_rate(tiny_model):
    model, strategy = tiny_model(), Rates()
    recipe = Recipe(learning_rate=0.2, head_rate_factor=3)
    optimizer = build_optimizer(model, strategy, 0.0, AdamW())
    rates = []
    for factor in (0.5, 1.0, 0.25):
        set_rates(optimizer, rates_of(model, strategy, 0.0), recipe, factor)
        found = settings(optimizer, model, "lr")
        assert found["head.weight"] == found["head.bias"] == 3 * found["stages.0.0.weight"]
        rates.append(found["stages.2.2.bias"])
    assert rates == pytest.approx([0.1, 0.2, 0.05])


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, None, "1", torch.tensor(1.0)])
def test_a_rate_that_is_no_finite_number_is_refused(tiny_model, value):
    model, strategy = tiny_model(), Rates()
    strategy.value = value
    expected = r"strategy 'rates': rate\(\) returned .* for stem at progress 0.30; expected"
    with pytest.raises(ftbench.FtbenchError, match=expected):
        rates_of(model, strategy, 0.3)


def test_what_prepare_froze_is_not_handed_to_the_optimizer(tiny_model):
    model = tiny_model()
    model.stages.requires_grad_(False)
    optimizer = build_optimizer(model, ftbench.Strategy(), 0.01, AdamW())
    assert set(settings(optimizer, model, "lr")) == {"head.weight", "head.bias"}


def test_a_model_with_nothing_to_train_is_refused(tiny_model):
    model = tiny_model().requires_grad_(False)
    with pytest.raises(ftbench.FtbenchError, match=r"'rates' left no parameter .*prepare\(\)"):
        build_optimizer(model, Rates(), 0.01, AdamW())


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, None, "1", True])
def test_a_schedule_whose_factor_is_none_is_refused(value):
    class Odd(Schedule):
        name = "odd"

        def factor(self, step, total_steps):
            return value

    with pytest.raises(ftbench.FtbenchError, match=r"schedule 'odd': factor\(3, 9\) returned"):
        checked_factor(Odd(), 3, 9)
