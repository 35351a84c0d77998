"""The training loop: every strategy, under the same draws and the same budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ftbench import rng
from ftbench.backbone import Model
from ftbench.errors import DivergedError, FtbenchError, RunTimeoutError
from ftbench.evaluate import predict
from ftbench.ops import QuadraticPenalty
from ftbench.recipe import Recipe
from ftbench.recipe_parts import RecipeParts
from ftbench.strategy import Strategy
from ftbench.task import Batch, Examples
from ftbench.train.early_stopping import EarlyStopping
from ftbench.train.freezing import Freezer
from ftbench.train.leaves import LeafCheck
from ftbench.train.losses import CheckedLoss, Loss
from ftbench.train.mixing import BatchMixer
from ftbench.train.optimizer import build_optimizer, checked_factor, set_rates
from ftbench.train.order import BatchOrder
from ftbench.train.statistics import Buffers, Statistics, moving_modules
from ftbench.train.stopwatch import Seconds, Stopwatch

_CHECK_EVERY = 25  # steps between looks at the losses: each look waits for the device


@dataclass(frozen=True)
class TrainingLog:
    """What a training left besides the weights."""

    steps: int  # taken, of those planned
    planned_steps: int
    loop: Seconds
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
    deadline: float | None = None,
    on_ready: Callable[[], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> TrainingLog:
    """Train ``model`` in place on ``examples``; both are on the device already.

    ``made`` are the parts that ``recipe`` names; its head is the model's already.

    Early stopping needs ``validation`` and ``recipe.patience``. ``deadline`` is a value of
    ``time.monotonic()``. ``on_ready`` is called after the warm-up, when the clock starts.
    DivergedError where a loss, a penalty or a weight is not finite; RunTimeoutError past the
    deadline; FtbenchError for a strategy under which nothing can train, or that depends on
    parameters that no optimizer moves, and for a loss that is no 0-dim tensor.
    """
    total_steps = recipe.total_steps(len(examples))
    steps = _Steps(model, examples, strategy, recipe, made, loss, seed)
    stopping = EarlyStopping(recipe.patience) if recipe.patience and validation else None
    history = _History(total_steps, next(model.parameters()).device, strategy.name)

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
            validation_loss = _validation_loss(model, validation, steps.loss)
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
        trainable_parameters=sum(p.numel() for p in steps.freezer.ever_trained),
        norm_statistics="update" if moved else "frozen",
        final_loss=history.last_loss(),
        best_step=stopping.best_step if stopping else None,
        validation_loss=stopping.best_loss if stopping else None,
    )


def _refuse_lateness(deadline: float | None, step: int, total_steps: int) -> None:
    if deadline is not None and time.monotonic() > deadline:
        raise RunTimeoutError(f"out of time after {step} of {total_steps} steps")


class _Steps:
    """The steps of one training: what is drawn, what trains, and the gradients that move it."""

    def __init__(
        self,
        model: Model,
        examples: Examples,
        strategy: Strategy,
        recipe: Recipe,
        made: RecipeParts,
        loss: Loss,
        seed: int,
    ) -> None:
        self._model, self._examples, self.loss = model, examples, CheckedLoss(loss)
        self._strategy, self._recipe, self._seed = strategy, recipe, seed
        self._total = recipe.total_steps(len(examples))
        self._order = BatchOrder(len(examples), recipe.batch_size, seed)
        self._optimizer = build_optimizer(model, strategy, recipe.weight_decay, made.optimizer)
        self._made = made
        self._update_statistics = not strategy.pretrained or recipe.norm_statistics == "update"
        self.freezer = Freezer(model, strategy, update_statistics=self._update_statistics)
        self._mixer = BatchMixer(made.mixing, seed)
        self.leaves = LeafCheck(self._optimizer, model, strategy, loss)
        self._looked_at: tuple[bool, ...] = ()
        self.freezer.apply(0.0)

    def warm_up(self) -> None:
        """Take one step's passes and forget them: the first call sets up kernels, no run's cost.

        In eval mode, and with buffers put back, so that nothing in the model moves. Statistics
        that are to stay frozen are looked for here.
        """
        buffers = Buffers(self._model.modules())
        self._model.eval()
        batch = self._examples.batch(self._order.batch(0))
        if not self._update_statistics:
            with rng.isolated(self._seed, "statistics"):
                self.freezer.hold_statistics(moving_modules(self._model, batch.inputs))
            self._model.eval()
        value = self.loss(self._model(batch.inputs, self.freezer.frozen_stages), batch.targets)
        if value.requires_grad:
            value.backward()
        self._model.zero_grad(set_to_none=True)
        buffers.restore()
        self.freezer.set_modes()

    def take(self, step: int) -> tuple[Tensor, Tensor | None] | None:
        """Take a step; return loss and penalty, detached, or None where nothing trains in it."""
        self.freezer.apply(step / self._total)
        if not self.freezer.anything_trains:
            return None
        factor = checked_factor(self._made.schedule, step, self._total)
        set_rates(self._optimizer, self.freezer.rates, self._recipe, factor)
        # Augmentation and dropout draw from the global generators: point them at this step,
        # whatever was drawn before, by the strategy for one.
        rng.seed_global(self._seed, "batch", step)
        batch = self._examples.batch(self._order.batch(step))
        self._optimizer.zero_grad(set_to_none=True)
        values = self._backward(batch, step)
        _clip_gradients(self._optimizer, self._recipe)
        self._optimizer.step()
        return values

    def _backward(self, batch: Batch, step: int) -> tuple[Tensor, Tensor | None]:
        """Leave the gradients of loss and penalty in ``.grad``; return both values, detached."""
        augmentation = self._made.augmentation
        views = augmentation.augment(batch.inputs, seed=self._seed, step=step)
        rng.seed_global(self._seed, "dropout", step)
        inputs, plan = self._mixer(views, step)
        outputs = self._model(inputs, self.freezer.frozen_stages)
        smoothing = self._recipe.label_smoothing
        task_loss = self.loss(outputs, batch.targets, plan=plan, smoothing=smoothing)
        penalty = self._penalty()
        if self._look_is_due(step):
            self.leaves.look(task_loss, penalty)
        if isinstance(penalty, QuadraticPenalty):
            task_loss.backward()
            return task_loss.detach(), penalty.add_gradient_()
        if penalty is None:
            task_loss.backward()
            return task_loss.detach(), None
        (task_loss + penalty).backward()
        return task_loss.detach(), penalty.detach()

    def _penalty(self) -> QuadraticPenalty | Tensor | None:
        """Return the strategy's penalty; FtbenchError where it is of another type."""
        penalty = self._strategy.penalty(self._model)
        if penalty is None or isinstance(penalty, QuadraticPenalty):
            return penalty
        if isinstance(penalty, Tensor) and penalty.dim() == 0:
            return penalty
        found = type(penalty).__name__
        if isinstance(penalty, Tensor):
            found += f" of shape {tuple(penalty.shape)}"
        raise FtbenchError(
            f"strategy '{self._strategy.name}': penalty() returned {found}; "
            "expected a 0-dim tensor, a QuadraticPenalty or None"
        )

    def _look_is_due(self, step: int) -> bool:
        """Return whether what trains is new since the last look, or this may be the last step."""
        recipe, changed = self._recipe, self.freezer.now != self._looked_at
        self._looked_at = self.freezer.now
        validated = recipe.patience is not None and (step + 1) % recipe.validate_every == 0
        return changed or validated or step + 1 == self._total or self.leaves.wants_another_look


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
