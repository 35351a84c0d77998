import copy
import itertools

import pytest
import torch
from torch import nn

import ftbench
from ftbench.recipe import Recipe
from ftbench.train import train
from ftbench.train.freezing import Freezer
from tests.support import made


class OnlySome(ftbench.Strategy):
    """Trains the parts whose index is in ``indices``, from the step at which they thaw."""

    name = "only-some"

    def __init__(self, thaws, freezes=None):
        super().__init__()
        self.thaws, self.freezes, self.calls = thaws, freezes or {}, []

    def trains(self, stage, progress):
        self.calls.append((stage.index, progress))
        return self.thaws.get(stage.index, 9) <= progress < self.freezes.get(stage.index, 9)


@pytest.fixture
def fit(tiny):
    def run(model, strategy, steps=4, on_step=None, **recipe):
        recipe = {"learning_rate": 0.05, "batch_size": 6, "weight_decay": 0.1, **recipe}
        examples = tiny.task().pool()
        return train(
            model,
            examples,
            strategy=strategy,
            recipe=Recipe(steps=steps, **recipe),
            made=made(Recipe(**recipe)),
            loss=tiny.task().loss,
            seed=0,
            on_step=on_step,
        )

    return run


def state(module):
    return copy.deepcopy(module.state_dict())


def moved(before, after):
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def stages_moved(before, after):
    return {".".join(name.split(".")[:2]) for name in moved(before, after)}


@pytest.mark.parametrize("statistics", ["frozen", "update"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("trained", [{3}, {2, 3}, {0, 3}, {1}])
def test_frozen_parts_are_bit_identical_buffers_included(
    fit, tiny_model, trained, statistics, optimizer
):
    model = tiny_model()
    before = state(model)
    strategy = OnlySome(dict.fromkeys(trained, 0))
    fit(model, strategy, norm_statistics=statistics, optimizer=optimizer)
    names = {"stages.0": 0, "stages.1": 1, "stages.2": 2, "head.weight": 3, "head.bias": 3}
    expected = {name for name, index in names.items() if index in trained}
    assert stages_moved(before, state(model)) == expected


def test_frozen_parts_are_in_eval_mode_and_trained_ones_in_train_mode(fit, tiny_model):
    model, modes = tiny_model(), []
    modules = dict(model.named_modules())
    fit(
        model,
        OnlySome({0: 0, 3: 0}),
        on_step=lambda *_: modes.append({name: m.training for name, m in modules.items()}),
    )
    for mode in modes:
        assert not any(on for name, on in mode.items() if name.startswith(("stages.1", "stages.2")))
        assert mode["stages.0"]
        assert mode["head"]


def test_leading_frozen_stages_run_outside_autograd_and_later_ones_pass_gradients(fit, tiny_model):
    model, seen = tiny_model(), {}

    def note(name):
        def hook(module, inputs, out):
            seen[name] = (torch.is_grad_enabled(), out.requires_grad)

        return hook

    for name, stage in zip(model.stage_names, model.stages, strict=True):
        stage.register_forward_hook(note(name))
    fit(model, OnlySome({1: 0, 3: 0}), steps=1)
    assert seen == {"stem": (False, False), "body": (True, True), "top": (True, True)}
    assert all(p.grad is None for stage in (0, 2) for p in model.stages[stage].parameters())
    assert not any(p.requires_grad for p in model.stages[2].parameters())
    assert all(p.grad is not None for p in model.stages[1].parameters())


def test_norm_statistics_are_frozen_by_default_where_weights_train(fit, tiny_model):
    model = tiny_model()
    before = state(model)
    fit(model, OnlySome(dict.fromkeys(range(4), 0)))
    found = moved(before, state(model))
    assert {"stages.0.1.weight", "stages.0.1.bias"} <= found  # the norm's own weights train
    assert not {name for name in found if "running" in name or "num_batches" in name}


def test_norm_statistics_move_by_the_batch_statistics_when_asked_to(fit, tiny, tiny_model):
    model = tiny_model()
    before = state(model)
    with torch.no_grad():
        pool = tiny.task().pool().inputs  # one batch of all 60 rows, so order does not matter
        activations = model.stages[0][0](pool)
    expected = 0.9 * before["stages.0.1.running_mean"] + 0.1 * activations.mean(dim=(0, 2, 3))
    fit(
        model,
        OnlySome(dict.fromkeys(range(4), 0)),
        steps=1,
        batch_size=60,
        norm_statistics="update",
    )
    torch.testing.assert_close(model.stages[0][1].running_mean, expected)


def test_a_strategy_from_random_weights_updates_statistics_under_any_recipe(fit, tiny_model):
    class FromNothing(ftbench.Strategy):
        name = "from-nothing"
        pretrained = False

    model = tiny_model()
    before = state(model)
    fit(model, FromNothing(), norm_statistics="frozen")
    assert {"stages.0.1.running_mean", "stages.1.1.running_var"} <= moved(before, state(model))


def test_norms_of_the_new_head_always_update(fit, tiny_model):
    model = tiny_model()
    model.head = nn.Sequential(nn.BatchNorm1d(8), model.head)
    before = state(model)
    fit(model, OnlySome({3: 0}))
    assert "head.0.running_mean" in moved(before, state(model))


@pytest.mark.parametrize(("thaws", "dropped"), [({2: 0, 3: 0}, True), ({0: 0, 3: 0}, False)])
def test_dropout_is_on_where_a_stage_trains_and_off_where_it_is_frozen(
    fit, tiny_model, thaws, dropped
):
    model, kept = tiny_model(), []
    dropout = model.stages[2][1]
    dropout.register_forward_hook(lambda _, inputs, out: kept.append(torch.equal(inputs[0], out)))
    fit(model, OnlySome(thaws))
    assert kept == [True, *[not dropped] * 4]  # the warm-up is in eval mode


def test_a_stage_that_thaws_midway_moves_from_that_step_on(fit, tiny_model):
    model, snapshots = tiny_model(), [None]
    snapshots[0] = state(model)
    fit(
        model,
        OnlySome({3: 0, 2: 0.5}),
        steps=6,
        schedule="constant",
        on_step=lambda *_: snapshots.append(state(model)),
    )
    per_step = [stages_moved(a, b) for a, b in itertools.pairwise(snapshots)]
    head = {"head.weight", "head.bias"}
    assert per_step == [head] * 3 + [head | {"stages.2"}] * 3


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_stage_that_freezes_midway_stays_put_despite_momentum(fit, tiny_model, optimizer):
    model, snapshots = tiny_model(), []
    fit(
        model,
        OnlySome({0: 0, 3: 0}, freezes={0: 0.5}),
        steps=4,
        optimizer=optimizer,
        learning_rate=0.01,
        on_step=lambda *_: snapshots.append(state(model.stages[0])),
    )
    assert moved(snapshots[0], snapshots[1])
    assert not moved(snapshots[1], snapshots[2]) | moved(snapshots[2], snapshots[3])


def test_what_prepare_froze_stays_frozen_through_a_thaw(fit, tiny_model):
    model = tiny_model()
    held = model.stages[2][2].weight.requires_grad_(False)
    before = held.clone()
    log = fit(model, OnlySome({3: 0, 2: 0.5}))
    assert torch.equal(held, before)
    assert not held.requires_grad
    assert log.trainable_parameters == (8 * 3 + 3) + 8  # the head, and the stage's bias


def test_steps_at_which_nothing_trains_change_nothing(fit, tiny_model):
    model, snapshots = tiny_model(), []
    before = state(model)
    log = fit(model, OnlySome({3: 0.5}), steps=4, on_step=lambda *_: snapshots.append(state(model)))
    assert not moved(before, snapshots[1])
    assert moved(snapshots[1], snapshots[2])
    assert log.steps == 4


def test_frozen_stages_counts_leading_ones_only(tiny_model):
    counts = {}
    for trained in [(0,), (1, 3), (2,), (3,), (0, 2)]:
        freezer = Freezer(tiny_model(), OnlySome(dict.fromkeys(trained, 0)), update_statistics=True)
        freezer.apply(0.0)
        counts[trained] = freezer.frozen_stages
    assert counts == {(0,): 0, (1, 3): 1, (2,): 2, (3,): 3, (0, 2): 0}


def test_a_strategy_is_asked_about_every_part_at_every_step(fit, tiny_model):
    strategy = OnlySome(dict.fromkeys(range(4), 0))
    fit(tiny_model(), strategy, steps=2)
    progresses = (0.0, 0.0, 0.5)  # once for the warm-up
    assert strategy.calls == [(index, p) for p in progresses for index in range(4)]


class RateZero(ftbench.Strategy):
    """Gives the parts of some indices rate 0 from a progress on, and others before it."""

    name = "rate-zero"

    def __init__(self, zero_from, zero_until=None):
        super().__init__()
        self.zero_from, self.zero_until, self.calls = zero_from, zero_until or {}, []

    def trains(self, stage, progress):
        self.calls.append(("trains", stage.index, progress))
        return True

    def rate(self, stage, progress):
        self.calls.append(("rate", stage.index, progress))
        zero = progress >= self.zero_from.get(stage.index, 9)
        return 0 if zero or progress < self.zero_until.get(stage.index, 0) else 1.0


class SameByTrains(RateZero):
    def trains(self, stage, progress):
        return super().rate(stage, progress) > 0

    def rate(self, stage, progress):
        return 1.0


@pytest.mark.parametrize("recipe", [{}, {"norm_statistics": "update", "gradient_clip": 0.1}])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize(
    "when",
    [
        ({0: 0, 1: 0}, None),
        ({0: 0, 2: 0}, None),
        ({1: 0.5}, None),
        ({}, {0: 0.5, 1: 0.25}),
        ({0: 0, 1: 0, 2: 0, 3: 0.5}, None),
    ],
)
def test_rate_0_is_frozen(fit, tiny_model, when, optimizer, recipe):
    ways = []
    for strategy in (RateZero(*when), SameByTrains(*when)):
        model = tiny_model(dropout=0.2)
        log = fit(model, strategy, optimizer=optimizer, **recipe)
        ways.append((state(model), log.trainable_parameters, log.final_loss))
    assert not moved(ways[0][0], ways[1][0])
    assert ways[0][1:] == ways[1][1:]


def test_a_stage_at_rate_0_takes_no_gradients_and_is_part_of_the_frozen_prefix(fit, tiny_model):
    model, seen = tiny_model(), []
    before = state(model.stages[0])

    def note(*_):
        grads = [p.grad is not None for stage in model.stages for p in stage.parameters()]
        seen.append((grads, model.stages[0].training, model.stages[1].training))

    model.stages[0].register_forward_hook(lambda m, i, out: seen.append(out.requires_grad))
    log = fit(model, RateZero({0: 0}), on_step=note, norm_statistics="update", steps=1)
    assert seen == [False, False, ([False] * 3 + [True] * 6, False, True)]
    assert not moved(before, state(model.stages[0]))
    assert log.trainable_parameters == sum(
        p.numel() for part in (*model.stages[1:], model.head) for p in part.parameters()
    )


def test_what_trained_before_its_rate_fell_to_0_counts_as_trainable(fit, tiny_model):
    counts = [
        fit(tiny_model(), RateZero(*when)).trainable_parameters
        for when in [({0: 0.5}, None), ({}, {0: 0.5}), ({}, None), ({0: 0.0}, None)]
    ]
    assert counts[0] == counts[1] == counts[2] == counts[3] + 4 * 9 + 8


def test_trains_and_rate_are_each_asked_once_a_step(fit, tiny_model):
    strategy = RateZero({0: 0, 1: 0, 2: 0, 3: 0.5})  # nothing trains in the second half
    fit(tiny_model(), strategy, steps=2)
    progresses = (0.0, 0.0, 0.5)  # once for the warm-up
    assert strategy.calls == [
        (method, index, p)
        for p in progresses
        for method in ("trains", "rate")
        for index in range(4)
    ]


def test_a_strategy_whose_rates_are_all_0_changes_nothing(fit, tiny_model):
    model = tiny_model()
    before = state(model)
    log = fit(model, RateZero(dict.fromkeys(range(4), 0)))
    assert not moved(before, state(model))
    assert (log.trainable_parameters, log.final_loss) == (0, None)
