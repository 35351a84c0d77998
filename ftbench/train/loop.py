"""The training loop: every strategy, under the same draws and the same budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from ftbench.backbone import Model
from ftbench.errors import DivergedError, RunTimeoutError
from ftbench.predictions import predict
from ftbench.recipe import Recipe
from ftbench.recipe_parts import RecipeParts
from ftbench.stopwatch import Seconds, Stopwatch
from ftbench.strategy import Strategy
from ftbench.task import Examples
from ftbench.train.early_stopping import EarlyStopping
from ftbench.train.history import History
from ftbench.train.losses import Loss
from ftbench.train.prefix import Flows, KnownRows, Tail
from ftbench.train.statistics import Statistics
from ftbench.train.steps import Passes, Steps

_CHECK_EVERY = 25  # steps between looks at the losses: each look waits for the device


@dataclass(frozen=True)
class TrainingLog:
    """What a training left besides the weights."""

    steps: int  # taken, of those planned
    planned_steps: int
    loop: Seconds
    passes: Passes
    skipped_steps: int  # in float16, of those taken: gradients overflowed
    trainable_parameters: int  # scalars that trained at any time, at a rate above 0
    norm_statistics: Literal["frozen", "update"]  # whether one of the backbone moved
    final_loss: float | None  # of the last batch, without the penalty; None: nothing trained
    best_step: int | None = None  # early stopping alone
    validation_loss: float | None = None


def train(
    model: Model,
    examples: Examples,
    *,
    strategy: Strategy,
    recipe: Recipe,
    made: RecipeParts,
    loss: Loss,
    seed: int,
    validation: Examples | None = None,
    generator: torch.Generator | None = None,
    prefixes: KnownRows | None = None,
    deadline: float | None = None,
    on_ready: Callable[[], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> TrainingLog:
    """Train ``model`` in place on ``examples``; both are on the device already.

    ``made`` are the parts that ``recipe`` names; its head is the model's already.

    Early stopping needs ``validation`` and ``recipe.patience``. ``generator`` is the strategy's
    own, which each backward pass points at its step. ``prefixes`` knows what frozen stages make of
    the rows; without it each step computes that. ``deadline`` is a value of
    ``time.monotonic()``. ``on_ready`` is called after the warm-up, when the clock starts.
    DivergedError where a loss, a penalty or a weight is not finite; RunTimeoutError past the
    deadline; FtbenchError for a strategy under which nothing can train, or that depends on
    parameters that no optimizer moves, that takes no step in advance(), or several, and for a loss
    or an objective that is no 0-dim tensor.
    """
    total_steps = recipe.total_steps(len(examples))
    draws = torch.Generator(next(model.parameters()).device) if generator is None else generator
    steps = Steps(model, examples, strategy, recipe, made, loss, seed, draws, prefixes)
    stopping = EarlyStopping(recipe.patience) if recipe.patience and validation else None
    history = History(total_steps, next(model.parameters()).device, strategy.name)

    steps.warm_up()
    steps.leaves.note_gradients()
    before = Statistics(model.stages.modules())
    if on_ready is not None:
        on_ready()
    watch, step = Stopwatch(), 0
    for step in range(total_steps):
        _refuse_lateness(deadline, step, total_steps)
        values = steps.take(step)
        if values is not None:
            history[step] = values
        if on_step is not None:
            on_step(step + 1, total_steps)
        if (step + 1) % _CHECK_EVERY == 0:
            history.check()
        due = (step + 1) % recipe.validate_every == 0 or step + 1 == total_steps
        if stopping and validation and due:
            frozen = steps.freezer.frozen_stages
            flows = prefixes.validation(frozen) if prefixes and frozen else None
            validation_loss = _validation_loss(model, validation, flows, steps.loss)
            steps.freezer.set_modes()
            if stopping.should_stop(model, validation_loss, step + 1):
                break
    history.check()  # waits for the device, so that the clock stops when the work does
    loop, moved = watch.read(), before.moved()
    steps.freezer.refuse_idleness()
    steps.leaves.refuse_missed()
    if stopping:
        stopping.restore(model)  # DivergedError where no validation loss was finite
    _check_weights(model, strategy)
    return TrainingLog(
        steps=step + 1,
        planned_steps=total_steps,
        loop=loop,
        passes=steps.passes,
        skipped_steps=steps.precision.skipped_steps,
        trainable_parameters=sum(p.numel() for p in steps.freezer.ever_trained),
        norm_statistics="update" if moved else "frozen",
        final_loss=history.last_loss(),
        best_step=stopping.best_step if stopping else None,
        validation_loss=stopping.best_loss if stopping else None,
    )


def _refuse_lateness(deadline: float | None, step: int, total_steps: int) -> None:
    if deadline is not None and time.monotonic() > deadline:
        raise RunTimeoutError(f"out of time after {step} of {total_steps} steps")


@torch.inference_mode()
def _validation_loss(model: Model, validation: Examples, flows: Flows | None, loss: Loss) -> float:
    if flows is None:
        outputs, targets = predict(model, validation)
    else:
        outputs, targets = predict(Tail(model, flows.depth), flows)
    return float(loss(outputs, targets))


def _check_weights(model: Model, strategy: Strategy) -> None:
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise DivergedError(f"{name} is not finite after training with '{strategy.name}'")
