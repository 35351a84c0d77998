"""The training loop: every strategy, under the same draws and the same budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ftbench import rng
from ftbench.backbone import Model
from ftbench.errors import DivergedError, FtbenchError, RunTimeoutError
from ftbench.evaluate import predict
from ftbench.ops import MixPlan, QuadraticPenalty
from ftbench.recipe import Recipe
from ftbench.strategy import Strategy
from ftbench.task import Batch, Examples
from ftbench.train.early_stopping import EarlyStopping
from ftbench.train.freezing import Freezer
from ftbench.train.mixing import BatchMixer
from ftbench.train.optimizer import build_optimizer, set_rates
from ftbench.train.order import BatchOrder

_CHECK_EVERY = 25  # steps between looks at the losses: each look waits for the device


class Loss(Protocol):
    """The loss of a task: see :meth:`ftbench.task.Task.loss`."""

    def __call__(
        self, outputs: Any, targets: Any, *, plan: MixPlan | None = None, smoothing: float = 0.0
    ) -> Tensor:
        """Return the 0-dim mean loss."""


@dataclass(frozen=True)
class TrainingLog:
    """What a training left besides the weights."""

    steps: int  # taken, of those planned
    planned_steps: int
    loop_seconds: float
    trainable_parameters: int  # scalars that trained at any time
    final_loss: float | None  # of the last batch, without the penalty; None: nothing trained
    best_step: int | None = None  # early stopping alone
    validation_loss: float | None = None


def train(
    model: Model,
    examples: Examples,
    *,
    strategy: Strategy,
    recipe: Recipe,
    loss: Loss,
    seed: int,
    validation: Examples | None = None,
    deadline: float | None = None,
    on_ready: Callable[[], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> TrainingLog:
    """Train ``model`` in place on ``examples``; both are on the device already.

    Early stopping needs ``validation`` and ``recipe.patience``. ``deadline`` is a value of
    ``time.monotonic()``. ``on_ready`` is called after the warm-up, when the clock starts.
    DivergedError where a loss, a penalty or a weight is not finite; RunTimeoutError past the
    deadline.
    """
    total_steps = recipe.total_steps(len(examples))
    order = BatchOrder(len(examples), recipe.batch_size, seed)
    optimizer = build_optimizer(model, strategy, recipe)
    update_statistics = not strategy.pretrained or recipe.norm_statistics == "update"
    freezer = Freezer(model, strategy, update_statistics=update_statistics)
    stopping = EarlyStopping(recipe.patience) if recipe.patience and validation else None
    mixer = BatchMixer(recipe, seed)
    history = _History(total_steps, next(model.parameters()).device, strategy.name)

    freezer.apply(0.0)
    _warm_up(model, examples.batch(order.batch(0)), freezer, loss)
    if on_ready is not None:
        on_ready()
    started, step = time.perf_counter(), 0
    for step in range(total_steps):
        if deadline is not None and time.monotonic() > deadline:
            raise RunTimeoutError(f"out of time after {step} of {total_steps} steps")
        freezer.apply(step / total_steps)
        if freezer.anything_trains:
            set_rates(optimizer, strategy, recipe, step, total_steps)
            # Augmentation and dropout draw from the global generators: point them at this step,
            # whatever was drawn before, by the strategy for one.
            rng.seed_global(seed, "batch", step)
            batch = examples.batch(order.batch(step))
            optimizer.zero_grad(set_to_none=True)
            rng.seed_global(seed, "dropout", step)
            history[step] = _backward(model, batch, mixer, freezer, strategy, recipe, loss, step)
            _clip_gradients(optimizer, recipe)
            optimizer.step()
        if on_step is not None:
            on_step(step + 1, total_steps)
        if (step + 1) % _CHECK_EVERY == 0:
            history.check()
        due = (step + 1) % recipe.validate_every == 0 or step + 1 == total_steps
        if stopping and validation and due:
            validation_loss = _validation_loss(model, validation, loss)
            freezer.set_modes()
            if stopping.should_stop(model, validation_loss, step + 1):
                break
    history.check()  # waits for the device, so that the clock stops when the work does
    loop_seconds = time.perf_counter() - started
    if stopping:
        stopping.restore(model)  # DivergedError where no validation loss was finite
    _check_weights(model, strategy)
    return TrainingLog(
        steps=step + 1,
        planned_steps=total_steps,
        loop_seconds=loop_seconds,
        trainable_parameters=sum(p.numel() for p in freezer.ever_trained),
        final_loss=history.last_loss(),
        best_step=stopping.best_step if stopping else None,
        validation_loss=stopping.best_loss if stopping else None,
    )


def _warm_up(model: Model, batch: Batch, freezer: Freezer, loss: Loss) -> None:
    """Take one step's passes and forget them: the first call sets up kernels, no run's cost.

    In eval mode, so that nothing in the model moves.
    """
    model.eval()
    value = loss(model(batch.inputs, freezer.frozen_stages), batch.targets)
    if value.requires_grad:
        value.backward()
    model.zero_grad(set_to_none=True)
    freezer.set_modes()


def _backward(
    model: Model,
    batch: Batch,
    mixer: BatchMixer,
    freezer: Freezer,
    strategy: Strategy,
    recipe: Recipe,
    loss: Loss,
    step: int,
) -> tuple[Tensor, Tensor | None]:
    """Leave the gradients of loss and penalty in ``.grad``; return both values, detached."""
    inputs, plan = mixer(batch.inputs, step)
    outputs = model(inputs, freezer.frozen_stages)
    task_loss = loss(outputs, batch.targets, plan=plan, smoothing=recipe.label_smoothing)
    penalty = strategy.penalty(model)
    if isinstance(penalty, QuadraticPenalty):
        task_loss.backward()
        return task_loss.detach(), penalty.add_gradient_()
    if penalty is None:
        task_loss.backward()
        return task_loss.detach(), None
    if not isinstance(penalty, Tensor) or penalty.dim() != 0:
        raise FtbenchError(
            f"strategy '{strategy.name}': penalty() returned {type(penalty).__name__}; "
            "expected a 0-dim tensor, a QuadraticPenalty or None"
        )
    (task_loss + penalty).backward()
    return task_loss.detach(), penalty.detach()


def _clip_gradients(optimizer: torch.optim.Optimizer, recipe: Recipe) -> None:
    if recipe.gradient_clip is not None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, recipe.gradient_clip)


@torch.no_grad()
def _validation_loss(model: Model, validation: Examples, loss: Loss) -> float:
    outputs, targets = predict(model, validation)
    return float(loss(outputs, targets))


def _check_weights(model: Model, strategy: Strategy) -> None:
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise DivergedError(f"{name} is not finite after training with '{strategy.name}'")


class _History:
    """Losses and penalties of all steps, kept on the device so that steps need not wait for it."""

    def __init__(self, steps: int, device: torch.device, strategy: str) -> None:
        self._values = torch.zeros(2, steps, device=device)
        self._seen = torch.zeros(steps, dtype=torch.bool)
        self._strategy = strategy

    def __setitem__(self, step: int, values: tuple[Tensor, Tensor | None]) -> None:
        loss, penalty = values
        self._values[0, step] = loss
        if penalty is not None:
            self._values[1, step] = penalty
        self._seen[step] = True

    def check(self) -> None:
        """Raise DivergedError for the first loss or penalty that is not finite.

        FtbenchError for a penalty that was not finite to begin with.
        """
        bad = ~self._values.isfinite()
        if not bool(bad.any()):
            return
        step = int(bad.any(dim=0).nonzero()[0])
        row = 0 if bad[0, step] else 1
        name = f"penalty of '{self._strategy}'" if row else "loss"
        where = f"the {name} is {float(self._values[row, step])} at step {step + 1}"
        if row and step == 0:
            # No weight has moved: nothing has diverged, the strategy itself is wrong.
            raise FtbenchError(f"{where}, before any weight has moved")
        raise DivergedError(f"{where}; try a lower recipe.learning_rate or recipe.gradient_clip")

    def last_loss(self) -> float | None:
        """Return the loss of the last step that trained."""
        seen = self._seen.nonzero()
        return float(self._values[0, int(seen[-1])]) if len(seen) else None
