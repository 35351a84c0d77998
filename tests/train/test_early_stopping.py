import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from ftbench.errors import DivergedError
from ftbench.recipe import Recipe
from ftbench.strategies.full import Full
from ftbench.train import train
from ftbench.train.early_stopping import EarlyStopping
from tests.support import made


def constant(value):
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, value)
    return layer


def test_the_best_weights_come_back():
    stopping, model = EarlyStopping(patience=5), constant(0)
    for step, loss in enumerate([3.0, 1.0, 2.0], start=1):
        nn.init.constant_(model.weight, step)
        assert not stopping.should_stop(model, loss, step)
    stopping.restore(model)
    assert model.weight.item() == 2
    assert (stopping.best_step, stopping.best_loss) == (2, 1.0)


@pytest.mark.parametrize(
    ("patience", "stops"), [(1, [0, 0, 1]), (2, [0, 0, 0, 0, 0, 1]), (3, [0] * 7)]
)
def test_patience_counts_validations_without_a_better_loss(patience, stops):
    stopping, losses = EarlyStopping(patience), [5, 4, 4, 3, 3.5, 3, 2]
    found = [stopping.should_stop(constant(0), loss, 1) for loss in losses[: len(stops)]]
    assert found == [bool(stop) for stop in stops]


def test_a_loss_that_is_no_number_is_never_the_best():
    stopping, model = EarlyStopping(patience=2), constant(1)
    assert not stopping.should_stop(model, math.nan, 1)
    assert not stopping.should_stop(model, 1.0, 2)
    nn.init.constant_(model.weight, 7)
    assert not stopping.should_stop(model, math.nan, 3)
    assert stopping.should_stop(model, math.nan, 4)
    stopping.restore(model)
    assert model.weight.item() == 1


def test_without_a_finite_loss_the_run_has_diverged():
    stopping = EarlyStopping(patience=9)
    stopping.should_stop(constant(1), math.nan, 1)
    with pytest.raises(DivergedError, match=r"no validation loss was finite; try a lower"):
        stopping.restore(constant(1))


@pytest.fixture
def fit(tiny, tiny_model):
    """Train with early stopping; returns the model, its log and every (step, state)."""

    def run(**recipe):
        pool, model, states = tiny.task().pool(), tiny_model(), {}
        recipe = {"learning_rate": 0.02, "batch_size": 8, "schedule": "constant", **recipe}
        log = train(
            model,
            pool.subset(np.arange(12)),
            strategy=Full(),
            recipe=Recipe(**recipe),
            made=made(Recipe(**recipe)),
            loss=tiny.task().loss,
            seed=0,
            validation=pool.subset(np.arange(12, 60)),
            on_step=lambda step, _: states.update({step: copy.deepcopy(model.state_dict())}),
        )
        return model, log, states

    return run


def validation_losses(tiny, model, states):
    held, model = tiny.task().pool().subset(np.arange(12, 60)), copy.deepcopy(model).eval()
    losses = {}
    for step, state in states.items():
        model.load_state_dict(state)
        with torch.no_grad():
            losses[step] = nn.functional.cross_entropy(model(held.inputs), held.targets).item()
    return losses


def test_training_returns_the_weights_of_the_best_validation(tiny, fit):
    model, log, states = fit(steps=60, patience=100, validate_every=3)
    losses = validation_losses(tiny, model, {s: v for s, v in states.items() if s % 3 == 0})
    best = min(losses, key=losses.get)
    assert 3 < best < 60  # or the test would show nothing
    assert log.best_step == best
    assert log.validation_loss == pytest.approx(losses[best], rel=1e-5)
    assert log.steps == 60
    for name, value in model.state_dict().items():
        assert torch.equal(value, states[best][name]), name


def test_training_stops_once_patience_is_used_up(tiny, fit):
    _, long, states = fit(steps=60, patience=100, validate_every=3)
    model, log, _ = fit(steps=60, patience=2, validate_every=3)
    losses = validation_losses(tiny, model, {s: v for s, v in states.items() if s % 3 == 0})
    best, waited, expected = math.inf, 0, long.planned_steps
    for step, loss in losses.items():
        best, waited = (loss, 0) if loss < best else (best, waited + 1)
        if waited == 2:
            expected = step
            break
    assert log.steps == expected < log.planned_steps == 60


@pytest.mark.parametrize(("steps", "validated"), [(2, {2}), (7, {3, 6, 7})])
def test_the_last_step_is_always_validated(tiny, fit, steps, validated):
    model, log, states = fit(steps=steps, patience=100, validate_every=3)
    losses = validation_losses(tiny, model, {step: states[step] for step in validated})
    assert log.best_step == min(losses, key=losses.get) == steps


def test_validation_leaves_no_trace_on_the_training(fit):
    _, _, often = fit(steps=10, patience=100, validate_every=1)  # dropout is on in the top stage
    _, _, never = fit(steps=10)
    for name, value in never[10].items():
        assert torch.equal(value, often[10][name]), name


def test_validation_rows_are_held_back_from_the_budget(tiny_run):
    record = tiny_run(size=30, steps=6, patience=1, validate_every=2)
    assert record.status == "ok"
    assert (record.protocol["training_rows"], record.protocol["validation_rows"]) == (24, 6)
    assert record.protocol["best_step"] in (2, 4, 6)


def test_a_run_too_short_for_a_validation_leaves_a_record_that_can_be_stored(tiny_run):
    record = tiny_run(size=30, steps=4, patience=1, validate_every=10)
    assert record.status == "ok"
    assert record.to_json()
