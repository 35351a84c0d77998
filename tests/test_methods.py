"""Five methods of the field, written by public names, each against a case worked out by hand.

The model is one weight and one head, or none, under plain gradient descent: what a method comes to
can be written down.
"""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ftbench
from ftbench.recipe import Recipe
from ftbench.testing import RECIPES, is_full_at
from ftbench.train import train
from tests.support import data_of, made

RATE = 0.1
DESCENT = {
    "optimizer": "sgd(momentum=0)", "schedule": "constant", "learning_rate": RATE,
    "head_rate_factor": 1.0, "weight_decay": 0.0, "batch_size": 1,
}  # fmt: skip


class Weight(nn.Module):
    """Multiplies by one weight."""

    def __init__(self, value):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(float(value)))

    def forward(self, x):
        return self.weight * x


def fit(strategy, *, weight=2.0, head=None, steps=1, loss=None, source=None, validation=None):
    """Train on the one row x = 1 under plain gradient descent; return the model."""
    rows = ftbench.TensorExamples(torch.ones(1, 1), torch.zeros(1, 1))
    model = ftbench.Model([("only", Weight(weight))], head or nn.Identity(), width=1)
    data = data_of(source, rows, rows)
    object.__setattr__(data, "loss", validation or loss)
    strategy.prepare(model, data)
    recipe = Recipe(steps=steps, **DESCENT)
    train(
        *(model, rows), strategy=strategy, recipe=recipe, made=made(recipe),
        loss=lambda outputs, targets, **_: loss(outputs, targets), seed=0,
        generator=data.generator,
    )  # fmt: skip
    if validation:
        strategy.finish(model, data)
    return model


def square(outputs, targets):
    return outputs.square().mean()


def total(outputs, targets):
    return outputs.sum()


class LinearProbeThenFull(ftbench.Strategy):
    """LP-FT (Kumar et al. 2022): the head alone, then everything."""

    name = "lp-ft"

    class Options(ftbench.StrategyOptions):
        probe: float = 0.5

    def trains(self, stage, progress):
        return stage.is_head or progress >= self.options.probe


def test_lp_ft_trains_the_head_first():
    """Output w·h, loss (w·h)²: ∂/∂h = 2hw², ∂/∂w = 2wh²."""
    model = fit(LinearProbeThenFull(), weight=2.0, head=Weight(1.0), steps=2, loss=square)
    h1 = 1.0 - RATE * 2 * 1.0 * 2.0**2
    w2 = 2.0 - RATE * 2 * 2.0 * h1**2
    h2 = h1 - RATE * 2 * h1 * 2.0**2
    assert model.stages[0].weight.item() == pytest.approx(w2)
    assert model.head.weight.item() == pytest.approx(h2)


class SAM(ftbench.Strategy):
    """Sharpness-aware minimization (Foret et al. 2021): the gradient uphill of where it stands."""

    name = "sam"

    class Options(ftbench.StrategyOptions):
        rho: float = 0.05

    @torch.no_grad()
    def advance(self, step):
        step.backward()
        moved = [(p, p.clone(), p.grad) for p in step.model.parameters() if p.grad is not None]
        norm = torch.stack([grad.norm() for _, _, grad in moved]).norm() + 1e-12
        for parameter, _, grad in moved:
            parameter.add_(self.options.rho * grad / norm)
        step.backward()
        for parameter, start, _ in moved:
            parameter.copy_(start)
        step.update()


def test_sam_takes_the_gradient_at_the_point_uphill():
    """Loss w², at w = 2: uphill is w + ρ, whose gradient 2(w + ρ) moves w."""
    model = fit(SAM(SAM.Options(rho=0.5)), weight=2.0, loss=square)
    assert model.stages[0].weight.item() == pytest.approx(2.0 - RATE * 2 * 2.5)


class LwF(ftbench.Strategy):
    """Learning without forgetting (Li & Hoiem 2016): the old head's answers stay."""

    name = "lwf"

    class Options(ftbench.StrategyOptions):
        strength: float = 1.0

    def prepare(self, model, data):
        self.old = copy.deepcopy(nn.Sequential(*model.stages, data.source.head)).eval()
        self.old.requires_grad_(False)
        model.extras["old"] = copy.deepcopy(data.source.head)

    def objective(self, forward):
        if not self.options.strength:
            return forward.loss
        target = self.old(forward.inputs).softmax(1)
        now = forward.model.extras["old"](forward.stages[-1]).log_softmax(1)
        return forward.loss + self.options.strength * F.kl_div(now, target, reduction="batchmean")


class TwoLogits(nn.Module):
    """Logits x and 0, so that the first class has probability σ(x)."""

    def forward(self, x):
        return torch.cat([x, torch.zeros_like(x)], 1)


def test_lwf_pulls_back_as_soon_as_the_old_answers_change():
    """∂ KL(σ(w₀) ‖ σ(w)) / ∂w = σ(w) − σ(w₀), which is 0 in the first step."""
    source = ftbench.Source(None, TwoLogits())
    strategy = LwF(LwF.Options(strength=3.0))
    model = fit(strategy, weight=2.0, steps=2, loss=total, source=source)
    w1 = 2.0 - RATE * 1.0

    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    w2 = w1 - RATE * (1.0 + 3.0 * (sigmoid(w1) - sigmoid(2.0)))
    assert model.stages[0].weight.item() == pytest.approx(w2, rel=1e-6)


class WiSE(ftbench.Strategy):
    """WiSE-FT (Wortsman et al. 2022): between the start and the end, where validation is best."""

    name = "wise-ft"
    validates = True

    def prepare(self, model, data):
        self.first = copy.deepcopy(model.stages.state_dict())

    def finish(self, model, data):
        last, losses = copy.deepcopy(model.stages.state_dict()), {}

        def put(alpha):
            mixed = {
                name: torch.lerp(self.first[name], value, alpha)
                if value.is_floating_point()
                else value
                for name, value in last.items()
            }
            model.stages.load_state_dict(mixed)

        for alpha in (i / 10 for i in range(11)):
            put(alpha)
            losses[alpha] = float(data.loss(*data.predict(model, data.validation)))
        put(min(losses, key=losses.get))


def test_wise_ft_stops_where_validation_is_best():
    """From w = 1, gradient −5 in steps of 0.1 goes to 2; the loss |w − 1.3| is least at α = 0.3."""

    def forwards(outputs, targets):
        return -5 * outputs.sum()

    def distance(outputs, targets):
        return (outputs - 1.3).abs().mean()

    model = fit(WiSE(), weight=1.0, steps=2, loss=forwards, validation=distance)
    assert model.stages[0].weight.item() == pytest.approx(1.3)


class Adapted(nn.Module):
    """A frozen module, and a residual that starts at nothing."""

    def __init__(self, module):
        super().__init__()
        self.module = module.requires_grad_(False)
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        out = self.module(x)
        return out + self.scale * out


class Adapter(ftbench.Strategy):
    """A scaling adapter in each stage (after Houlsby et al. 2019): the backbone stays."""

    name = "adapter"

    def prepare(self, model, data):
        for index, stage in enumerate(model.stages):
            model.stages[index] = Adapted(stage)


def test_an_adapter_trains_and_what_it_adapts_does_not():
    """Output w(1 + s), loss its square: ∂/∂s = 2w²(1 + s)."""
    model = fit(Adapter(), weight=2.0, steps=2, loss=square)
    s1 = -RATE * 2 * 4 * 1.0
    s2 = s1 - RATE * 2 * 4 * (1 + s1)
    assert model.stages[0].scale.item() == pytest.approx(s2)
    assert model.stages[0].module.weight.item() == 2.0


# In the harness.


@pytest.mark.parametrize("strategy", [LinearProbeThenFull, SAM, LwF, WiSE, Adapter])
def test_each_of_them_is_swept(tiny_run, strategy):
    record = tiny_run(strategy, size=30, steps=8)
    assert record.status == "ok", record.message
    assert record.protocol["validation_rows"] == (6 if strategy is WiSE else 0)
    passes = (record.protocol["forward_passes"], record.protocol["backward_passes"])
    assert passes == ((2.0, 2.0) if strategy is SAM else (1.0, 1.0))
    again = tiny_run(strategy, size=30, steps=8)
    assert again.scores == record.scores


@pytest.mark.parametrize(
    ("strategy", "options"),
    [(LinearProbeThenFull, {"probe": 0}), (SAM, {"rho": 0}), (LwF, {"strength": 0})],
)
def test_at_strength_zero_they_are_full(strategy, options):
    assert is_full_at(strategy, **options)


def test_what_is_not_full_is_said_recipe_by_recipe():
    found = is_full_at(SAM, rho=0.5)
    assert not found
    assert "final_loss" in repr(found) or "nll" in repr(found) or "accuracy" in repr(found)
    assert set(found.differences) == {name for name in found.differences if found.differences[name]}
    assert len(found.differences) == len(RECIPES)


def test_a_teacher_of_the_strategys_own_is_not_counted_but_data_predict_needs_no_gradient():
    rows = ftbench.TensorExamples(torch.ones(3, 1), torch.zeros(3, dtype=torch.int64))
    model = nn.Sequential(Weight(2.0), nn.Dropout(0.5)).train()
    outputs, targets = data_of().predict(model, rows)
    assert outputs.tolist() == [[2.0]] * 3
    assert targets.tolist() == [0, 0, 0]
    assert not outputs.requires_grad
    assert not outputs.is_inference()  # so that it may enter a graph
    assert (outputs * nn.Parameter(torch.ones(()))).requires_grad
    assert model.training
    assert np.isfinite(outputs.numpy()).all()
