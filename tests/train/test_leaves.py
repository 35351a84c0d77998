"""Parameters that nobody trains are refused by name; those that train, or are frozen, are not."""

import copy
import types

import numpy as np
import pytest
import torch
from torch import nn

import ftbench
from ftbench.errors import FtbenchError
from ftbench.recipe import Recipe
from ftbench.strategies.full import Full
from ftbench.train import train
from ftbench.train.leaves import LeafCheck
from tests.support import data_of, made

ADVICE = r"register on model\.head or a stage in prepare\(\) .*switch off requires_grad"


class Penalized(ftbench.Strategy):
    """A strategy that is made by ``setup`` and whose penalty is a function of it and the model."""

    name = "penalized"

    def __init__(self, setup, penalty, trains=lambda strategy, stage, progress: True):
        super().__init__()
        self._setup, self._function, self._trains = setup, penalty, trains
        self.count = 0

    def prepare(self, model, data):
        self._setup(self, model)

    def trains(self, stage, progress):
        return self._trains(self, stage, progress)

    def penalty(self, model):
        self.count += 1
        return self._function(self, model)


@pytest.fixture
def fit(tiny, tiny_model):
    def run(strategy, *, task=None, steps=4, validation=None, **recipe):
        model, pool = tiny_model(), tiny.task().pool()
        strategy.prepare(model, data_of())
        held = pool.subset(np.arange(40, 60)) if validation else None
        train(
            model,
            pool.subset(np.arange(20)),
            strategy=strategy,
            recipe=Recipe(steps=steps, batch_size=5, learning_rate=0.01, **recipe),
            made=made(Recipe(**recipe)),
            loss=(task or tiny.task()).loss,
            seed=0,
            validation=held,
        )
        return model

    return run


def gate(value=1.0):
    return nn.Parameter(torch.full((3,), value))


closed_over = gate()
SETUPS = {
    "an attribute": (
        lambda s, m: setattr(s, "gate", gate()),
        lambda s, m: s.gate.sum(),
        r"self\.gate of shape \(3,\)",
    ),
    "a private plain tensor": (
        lambda s, m: setattr(s, "_w", torch.ones(2, requires_grad=True)),
        lambda s, m: s._w.sum(),
        r"self\._w of shape \(2,\)",
    ),
    "the penalty itself": (
        lambda s, m: setattr(s, "gate", nn.Parameter(torch.ones(()))),
        lambda s, m: s.gate,
        r"self\.gate of shape \(\)",
    ),
    "in a dict of lists": (
        lambda s, m: setattr(s, "gates", {"a": [gate(), gate()]}),
        lambda s, m: s.gates["a"][1].sum() + m.head.bias.sum(),
        r"self\.gates\['a'\]\[1\] of shape \(3,\), which",
    ),
    "of a module": (
        lambda s, m: setattr(s, "net", nn.Sequential(nn.Linear(8, 2))),
        lambda s, m: s.net(m.head.weight).square().mean(),
        r"self\.net\.0\.weight of shape \(2, 8\), self\.net\.0\.bias of shape \(2,\), which",
    ),
    "of an object": (
        lambda s, m: setattr(s, "state", types.SimpleNamespace(gate=gate())),
        lambda s, m: s.state.gate.sum(),
        r"self\.state\.gate",
    ),
    "a copy of the model": (
        lambda s, m: setattr(s, "reference", copy.deepcopy(m)),
        lambda s, m: (s.reference.head.weight - m.head.weight).square().sum(),
        r"self\.reference\.head\.weight of shape \(3, 8\)",
    ),
    "on the model, in no part": (
        lambda s, m: setattr(m, "gate", gate()),
        lambda s, m: m.gate.sum(),
        r"model\.gate of shape \(3,\)",
    ),
    "closed over": (
        lambda s, m: None,
        lambda s, m: closed_over.sum(),
        r"a parameter of shape \(3,\)",
    ),
    "made anew at each step": (
        lambda s, m: None,
        lambda s, m: nn.Linear(8, 1)(m.head.weight).sum(),
        r"a parameter of shape \(1, 8\), a parameter of shape \(1,\)",
    ),
    "pulled by a QuadraticPenalty": (
        lambda s, m: setattr(s, "gate", gate()),
        lambda s, m: ftbench.QuadraticPenalty([m.head.bias, s.gate], [None, None], [1.0, 1.0]),
        r"self\.gate of shape \(3,\)",
    ),
    "an expression pulled by a QuadraticPenalty": (
        lambda s, m: None,
        lambda s, m: ftbench.QuadraticPenalty([2 * m.head.bias], [None], [1.0]),
        r"a tensor of shape \(3,\)",
    ),
    "pulled by a QuadraticPenalty's value": (
        lambda s, m: setattr(s, "gate", gate()),
        lambda s, m: ftbench.QuadraticPenalty([s.gate], [None], [1.0]).value(),
        r"self\.gate of shape \(3,\)",
    ),
}


@pytest.mark.parametrize("case", SETUPS)
def test_a_parameter_that_nobody_trains_is_named(fit, case):
    setup, penalty, named = SETUPS[case]
    with pytest.raises(FtbenchError, match=rf"'penalized': no optimizer moves {named}.*{ADVICE}"):
        fit(Penalized(setup, penalty))


def test_a_class_attribute_is_named(fit):
    class Shared(Penalized):
        gate = nn.Parameter(torch.ones(2))

    with pytest.raises(FtbenchError, match=r"no optimizer moves self\.gate of shape \(2,\)"):
        fit(Shared(lambda s, m: None, lambda s, m: s.gate.sum()))


def test_a_plain_tensor_that_nothing_leads_to_is_refused_when_it_comes_back(fit):
    tensor = torch.ones(4, requires_grad=True)
    strategy = Penalized(lambda s, m: None, lambda s, m: tensor.sum())
    with pytest.raises(FtbenchError, match=r"no optimizer moves a tensor of shape \(4,\)"):
        fit(strategy)
    assert strategy.count == 2


def test_a_tensor_made_for_one_step_to_differentiate_by_is_no_parameter(fit, monkeypatch):
    def gradient_penalty(strategy, model):
        x = torch.randn(4, 8).requires_grad_()
        (gradient,) = torch.autograd.grad(model.head(x).square().sum(), x, create_graph=True)
        return gradient.square().sum() + 0.0 * x.sum()

    looks = []
    look = LeafCheck.look

    def counted(self, *results):
        looks.append(results)
        look(self, *results)

    monkeypatch.setattr(LeafCheck, "look", counted)
    fit(Penalized(lambda s, m: None, gradient_penalty), steps=8)
    assert len(looks) == 3  # the first two steps and the last


def test_the_tasks_own_parameter_is_named(fit, tiny):
    class Tempered(tiny.Task):
        def __init__(self):
            super().__init__()
            self.temperature = nn.Parameter(torch.ones(()))

        def loss(self, outputs, targets, **options):
            return super().loss(outputs / self.temperature, targets, **options)

    with pytest.raises(FtbenchError, match=r"no optimizer moves task\.temperature of shape \(\)"):
        fit(Full(), task=Tempered())


def adding(step, where):
    """Return a penalty that adds a parameter to a part of the model in that step."""

    def penalty(strategy, model):
        if strategy.count == step:
            where(model).late = gate()
        late = getattr(where(model), "late", None)
        return None if late is None else late.sum()

    return penalty


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize(
    ("where", "named"),
    [
        (lambda m: m.head, r"model\.head\.late"),
        (lambda m: m.stages[1][0], r"model\.stages\.1\.0\.late"),
        (lambda m: m, r"model\.late"),
    ],
)
def test_a_parameter_of_the_model_that_came_too_late_is_named(fit, step, where, named):
    with pytest.raises(FtbenchError, match=named):
        fit(Penalized(lambda s, m: None, adding(step, where)))


def test_a_parameter_that_came_too_late_is_named_where_training_stops_early(fit):
    strategy = Penalized(lambda s, m: None, adding(3, lambda model: model.head))
    with pytest.raises(FtbenchError, match=r"model\.head\.late"):
        fit(strategy, steps=100, validation=True, patience=1, validate_every=5)


def test_a_parameter_made_when_a_stage_thaws_is_named_in_that_step(fit):
    def trains(strategy, stage, progress):
        if stage.index == 2 and progress >= 0.5 and not hasattr(strategy, "gate"):
            strategy.gate = gate()
        return stage.is_head or (stage.index == 2 and progress >= 0.5)

    strategy = Penalized(
        lambda s, m: None, lambda s, m: s.gate.sum() if hasattr(s, "gate") else None, trains
    )
    with pytest.raises(FtbenchError, match=r"self\.gate"):
        fit(strategy, steps=20)
    assert strategy.count == 11


def register(strategy, model):
    model.head.gate = gate()
    model.stages[1].extra = nn.Linear(3, 1)
    model.stages[1].forward = lambda x: model.stages[1][2](
        model.stages[1][1](model.stages[1][0](x))
    )


def test_what_prepare_registers_on_head_and_stages_trains(fit):
    model = fit(
        Penalized(
            register, lambda s, m: m.stages[1].extra(m.head.gate).sum() + m.head.gate.square().sum()
        )
    )
    assert not torch.equal(model.head.gate, gate())


def test_frozen_parameters_and_a_frozen_reference_are_none_of_its_business(fit):
    def setup(strategy, model):
        strategy.reference = copy.deepcopy(model).requires_grad_(False)
        strategy.scale = gate().requires_grad_(False)
        model.stages[0].requires_grad_(False)

    def penalty(strategy, model):
        pairs = zip(model.parameters(), strategy.reference.parameters(), strict=True)
        return strategy.scale.sum() * sum((a - b).square().sum() for a, b in pairs)

    fit(Penalized(setup, penalty, lambda s, stage, progress: stage.index >= 2))


def test_a_run_whose_penalty_has_a_parameter_of_its_own_fails_with_that_message(tiny_run):
    class Gated(ftbench.Strategy):
        name = "gated"

        def prepare(self, model, data):
            self.gate = nn.Parameter(torch.zeros(()))

        def penalty(self, model):
            return self.gate.sigmoid() * model.head.weight.square().sum()

    record = tiny_run(Gated)
    assert record.status == "failed"
    assert record.message.startswith("strategy 'gated': no optimizer moves self.gate of shape ()")


def in_steps(*steps):
    """Return a penalty that depends on ``self.gate`` in those steps alone, counted from 1."""
    return lambda strategy, model: strategy.gate.sum() if strategy.count in steps else None


def set_gate(strategy, model):
    strategy.gate = gate()


@pytest.mark.parametrize("steps", [(3, 4, 5), (4,)])
def test_a_parameter_that_the_middle_steps_depend_on_is_named(fit, steps):
    with pytest.raises(FtbenchError, match=rf"no optimizer moves self\.gate of shape .*{ADVICE}"):
        fit(Penalized(set_gate, in_steps(*steps)), steps=8)


def test_one_that_a_quadratic_penalty_pulls_on_in_the_middle_is_named(fit):
    def penalty(strategy, model):
        pulls = strategy.count == 3
        return ftbench.QuadraticPenalty([strategy.gate], [None], [1.0]) if pulls else None

    with pytest.raises(FtbenchError, match=r"no optimizer moves self\.gate of shape \(3,\)"):
        fit(Penalized(set_gate, penalty), steps=8)


def test_one_that_is_made_in_the_middle_is_named(fit):
    def penalty(strategy, model):
        if strategy.count == 3:
            set_gate(strategy, model)
        return strategy.gate.sum() if strategy.count in (3, 4) else None

    with pytest.raises(FtbenchError, match=r"no optimizer moves self\.gate of shape \(3,\)"):
        fit(Penalized(set_gate, penalty), steps=8)


def test_the_tasks_own_parameter_in_the_middle_steps_is_named(fit, tiny):
    class Tempered(tiny.Task):
        def __init__(self):
            super().__init__()
            self.temperature, self.count = nn.Parameter(torch.ones(())), 0

        def loss(self, outputs, targets, **options):
            self.count += 1
            scale = self.temperature if self.count == 4 else 1.0
            return super().loss(outputs / scale, targets, **options)

    with pytest.raises(FtbenchError, match=r"no optimizer moves task\.temperature of shape \(\)"):
        fit(Full(), task=Tempered(), steps=8)


def test_a_gradient_that_prepare_left_is_none_of_the_steps(fit):
    def setup(strategy, model):
        strategy.reference = copy.deepcopy(model)
        strategy.reference(torch.ones(2, 1, 8, 8)).sum().backward()

    fit(Penalized(setup, lambda s, m: None))


@pytest.mark.parametrize("lazily", [False, True])
def test_what_a_strategy_trains_by_an_optimizer_of_its_own_is_not_missed(fit, lazily):
    def setup(strategy, model):
        strategy.critic = nn.Linear(8, 1)
        strategy.optimizer = torch.optim.AdamW(strategy.critic.parameters(), fused=True)

    def penalty(strategy, model):
        if not hasattr(strategy, "critic"):
            setup(strategy, model)
        strategy.optimizer.zero_grad()
        strategy.critic(model.head.weight.detach()).sum().backward()
        strategy.optimizer.step()

    fit(Penalized((lambda s, m: None) if lazily else setup, penalty))


def test_a_tensor_kept_for_one_step_to_differentiate_by_is_not_missed(fit):
    def penalty(strategy, model):
        strategy.delta = torch.zeros(3, requires_grad=True)
        (model.head.bias.detach() * strategy.delta).sum().backward()

    fit(Penalized(lambda s, m: None, penalty))
