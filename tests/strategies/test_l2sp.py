import numpy as np
import pytest
import torch

from ftbench.backbone import undecayed_parameters
from ftbench.recipe import Recipe
from ftbench.recipes.optimizers import AdamW
from ftbench.strategies.l2sp import L2SP, L2SPOptions
from ftbench.train import train
from ftbench.train.optimizer import build_optimizer
from tests.support import data_of, made


@pytest.fixture
def moved_model(tiny_model):
    """A strategy prepared on the pre-trained model, whose weights have then moved."""

    def make(**options):
        model, strategy = tiny_model(), L2SP(L2SPOptions(**options))
        strategy.prepare(model, data_of())
        start = {name: p.detach().clone().double() for name, p in model.named_parameters()}
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        return model, strategy, start

    return make


@pytest.mark.parametrize("biases_and_norms", [True, False])
def test_value_and_gradient_are_those_of_the_paper(moved_model, biases_and_norms):
    model, strategy, start = moved_model(alpha=0.3, beta=0.07, biases_and_norms=biases_and_norms)
    value, gradients = 0.0, {}
    for name, parameter in model.named_parameters():
        now = parameter.detach().double()
        weight, gap = (0.07, now) if name.startswith("head") else (0.3, now - start[name])
        if not biases_and_norms and now.dim() == 1:
            weight = 0.0
        value += weight / 2 * float((gap**2).sum())
        gradients[name] = weight * gap
    found = strategy.penalty(model).add_gradient_()
    assert found.item() == pytest.approx(value, rel=1e-5)
    for name, parameter in model.named_parameters():
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(grad.double(), gradients[name], rtol=1e-5, atol=1e-7, msg=name)


def test_the_anchor_does_not_follow_the_weights(moved_model):
    model, strategy, _ = moved_model(beta=0.0)
    before = strategy.penalty(model).value().item()
    assert before > 0
    with torch.no_grad():
        for parameter in model.stages.parameters():
            parameter += 1
    assert strategy.penalty(model).value().item() > before


def test_nothing_takes_weight_decay(tiny_model):
    optimizer = build_optimizer(tiny_model(), L2SP(), 0.5, AdamW())
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0}


def test_a_strong_pull_keeps_the_weights_near_their_start(tiny, tiny_model):
    start, pool = tiny_model(), tiny.task().pool().subset(np.arange(20))
    distances = {}
    for alpha in (0.0, 1.0, 10.0):
        model, strategy = tiny_model(), L2SP(L2SPOptions(alpha=alpha))
        strategy.prepare(model, data_of())
        recipe = Recipe(steps=30, learning_rate=0.02, optimizer="sgd", batch_size=10)
        loss = tiny.task().loss
        train(model, pool, strategy=strategy, recipe=recipe, made=made(recipe), loss=loss, seed=0)
        pairs = zip(model.stages.parameters(), start.stages.parameters(), strict=True)
        distances[alpha] = sum((now - then).detach().square().sum().item() for now, then in pairs)
    assert distances[0.0] > 1.5 * distances[1.0] > 1.5**2 * distances[10.0] > 0


def test_the_default_holds_biases_and_norms_too(tiny_model):
    model, strategy = tiny_model(), L2SP()
    strategy.prepare(model, data_of())
    held = {id(p) for p in strategy.penalty(model).parameters}
    assert held == {id(p) for p in model.parameters()}
    assert {id(p) for p in undecayed_parameters(model)} < held
