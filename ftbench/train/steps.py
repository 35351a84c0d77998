"""The steps of one training: what is drawn, what trains, and the gradients that move it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from ftbench import rng
from ftbench.answers import refusal
from ftbench.backbone import Model
from ftbench.errors import FtbenchError
from ftbench.ops import QuadraticPenalty
from ftbench.recipe import Recipe
from ftbench.recipe_parts import RecipeParts
from ftbench.strategy import Strategy
from ftbench.task import Examples
from ftbench.train.freezing import Freezer
from ftbench.train.history import StepValues
from ftbench.train.leaves import LeafCheck
from ftbench.train.losses import CheckedLoss, Loss
from ftbench.train.optimizer import Groups, build_optimizer, checked_factor, set_rates
from ftbench.train.precision import Precision
from ftbench.train.prefix import KnownRows
from ftbench.train.rows import SeenRows, StepRows, as_is, row_count
from ftbench.train.statistics import Buffers, moving_modules
from ftbench.training import Forward, Step


@dataclass(frozen=True)
class Passes:
    """How many passes over a batch the steps took, for each step that trained anything."""

    steps: int = 0
    forward: int = 0
    backward: int = 0


class Steps:
    """The steps of one training."""

    def __init__(
        self,
        model: Model,
        examples: Examples,
        strategy: Strategy,
        recipe: Recipe,
        made: RecipeParts,
        loss: Loss,
        seed: int,
        generator: torch.Generator,
        prefixes: KnownRows | None = None,
    ) -> None:
        self._model, self._examples, self.loss = model, examples, CheckedLoss(loss)
        self._strategy, self._recipe, self._made, self._seed = strategy, recipe, made, seed
        self._generator = generator
        self._total = recipe.total_steps(len(examples))
        self._optimizer = build_optimizer(model, strategy, recipe.weight_decay, made.optimizer)
        self._update_statistics = not strategy.pretrained or recipe.norm_statistics == "update"
        self._groups = Groups(self._optimizer)
        self.freezer = Freezer(model, strategy, update_statistics=self._update_statistics)
        self._rows = StepRows(examples, recipe, made, seed, prefixes)
        self._prefixes = prefixes
        self.precision = Precision(recipe.precision, next(model.parameters()).device)
        self.leaves = LeafCheck(self._optimizer, model, strategy, loss)
        self._looked_at: tuple[bool, ...] = ()
        self._has_objective = _is_overridden(strategy, "objective")
        self.passes = Passes()
        self.freezer.apply(0.0)

    def warm_up(self) -> None:
        """Take one step's passes and forget them: the first call sets up kernels, no run's cost.

        In eval mode, and with buffers put back, so that nothing in the model moves. Statistics
        that are to stay frozen are looked for here.
        """
        buffers = Buffers(self._model.modules())
        self._model.eval()
        batch = self._examples.batch(self._rows.order.batch(0))
        if not self._update_statistics:
            with rng.isolated(self._seed, "statistics"):
                self.freezer.hold_statistics(moving_modules(self._model, batch.inputs))
            self._model.eval()
        with self.precision.forward():
            outputs = self._model(batch.inputs, self.freezer.frozen_stages)
        value = self.loss(self.precision.in_full(outputs), batch.targets)
        if value.requires_grad:
            value.backward()
        self._model.zero_grad(set_to_none=True)
        buffers.restore()
        self.freezer.set_modes()

    def take(self, step: int) -> StepValues | None:
        """Take a step; return what it came to, or None where nothing trains in it."""
        self.freezer.apply(step / self._total)
        if self._prefixes is not None:
            self._prefixes.thaw(self.freezer.frozen_stages)
        if not self.freezer.anything_trains:
            return None
        self._groups.show(self.freezer.now)
        factor = 1.0
        if self._strategy.scheduled:
            factor = checked_factor(self._made.schedule, step, self._total)
        set_rates(self._optimizer, self.freezer.rates, self._recipe, factor)
        # What augments draws from the global generators: point them at this step, whatever was
        # drawn before, by the strategy for one.
        rng.seed_global(self._seed, "batch", step)
        taken = _Taken(self, step, self._rows.at(step, self.freezer.frozen_stages))
        self._optimizer.zero_grad(set_to_none=True)
        shown = Step(self._model, step, self._total, backward=taken.backward, update=self._update)
        self._strategy.advance(shown)
        self._refuse_miscounts(shown)
        passes = self.passes
        self.passes = Passes(
            passes.steps + 1, passes.forward + taken.forwards, passes.backward + shown.backwards
        )
        assert taken.values is not None  # there was a backward pass
        return taken.values

    def _update(self) -> None:
        if not self.precision.allows_step(self._trained()):
            return
        if self._recipe.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(self._trained(), self._recipe.gradient_clip)
        self._optimizer.step()

    def _refuse_miscounts(self, shown: Step) -> None:
        if shown.updates == 1 and shown.backwards:
            return
        raise FtbenchError(
            f"strategy '{self._strategy.name}': advance() called step.backward() "
            f"{shown.backwards} and step.update() {shown.updates} times; expected backward() at "
            "least once and update() exactly once"
        )

    def backward(self, taken: _Taken) -> StepValues:
        """Leave the gradients of objective and penalty in ``.grad``."""
        values = []
        penalty: QuadraticPenalty | Tensor | None = None
        for index, share in enumerate(taken.shares):
            forward = taken.first_pass(index)
            if index == 0:
                penalty = self._penalty()
            objective = self._objective(forward)
            if index == 0 and taken.is_first and self._look_is_due(taken.step):
                self.leaves.look(objective, penalty)
            rest = (objective - forward.loss).detach() if self._has_objective else None
            values.append(StepValues(forward.loss.detach(), rest))
            del forward  # its stages' outputs need not outlive the pass backward
            whole = objective if share == 1 else share * objective
            if index == 0 and isinstance(penalty, Tensor):
                whole = whole + penalty
            self.precision.backward(whole, self._trained())
            taken.put_statistics_back()
        found = _mean(values, taken.shares)
        if isinstance(penalty, QuadraticPenalty):
            return replace(found, penalty=penalty.add_gradient_())
        return found if penalty is None else replace(found, penalty=penalty.detach())

    def _trained(self) -> list[Tensor]:
        return [p for group in self._optimizer.param_groups for p in group["params"]]

    def _objective(self, forward: Forward) -> Tensor:
        """Return what the strategy minimizes; FtbenchError where it is no loss."""
        if not self._has_objective:
            return forward.loss
        value: object = self._strategy.objective(forward)
        what = f"strategy '{self._strategy.name}': objective() returned"
        if not isinstance(value, Tensor) or value.dim():
            raise refusal(value, what, "a 0-dim tensor, a mean over the batch's rows")
        if forward.loss.requires_grad and not value.requires_grad:
            raise FtbenchError(
                f"{what} a tensor without a gradient; compute it from forward.loss and "
                "forward.outputs without detach(), item() or no_grad()"
            )
        return value

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

    def point_at(self, step: int) -> None:
        """Point all draws of a backward pass at its step, whatever was drawn before."""
        self._generator.manual_seed(rng.torch_seed(self._seed, "strategy", step))
        rng.seed_global(self._seed, "dropout", step)

    def clear_gradients(self) -> None:
        """Forget the gradients of before."""
        self._optimizer.zero_grad(set_to_none=True)

    def forward(self, rows: SeenRows, taken: _Taken) -> Forward:
        """Return a pass over some rows, with a gradient where they or what trains want one."""
        frozen = self.freezer.frozen_stages
        if rows.flow is None and frozen and _wants_gradient(rows.see()):
            frozen = 0
        with self.precision.forward():
            stages = self._stages(rows, frozen)
            features = self._model.readout(stages[-1])
            outputs = self.precision.in_full(self._model.answer(features, rows.targets))
        smoothing = self._recipe.label_smoothing
        return Forward(
            model=self._model,
            targets=rows.targets,
            plan=rows.plan,
            stages=tuple(stages),
            features=features,
            outputs=outputs,
            loss=self.loss(outputs, rows.targets, plan=rows.plan, smoothing=smoothing),
            _inputs=rows.see,
            _again=taken.again,
        )

    def _stages(self, rows: SeenRows, frozen: int) -> list[Any]:
        """Return what each stage makes of the one before, None for frozen ones but the last."""
        found: list[Any] = [None] * frozen
        flow = rows.see() if rows.flow is None else rows.flow
        with torch.no_grad():
            for stage in self._model.stages[rows.depth : frozen]:
                flow = stage(flow)
        for stage in self._model.stages[frozen:]:
            flow = stage(flow)
            found.append(flow)
        found[-1] = flow
        return found

    def statistics(self) -> Buffers:
        """Return the model's buffers as they are now."""
        return Buffers(module for module in self._model.modules() if module._buffers)


class _Taken:
    """A step while it is taken: its rows, and what its backward passes came to."""

    def __init__(self, steps: Steps, step: int, parts: tuple[SeenRows, ...]) -> None:
        self._steps, self.step, self._parts = steps, step, parts
        counts = [row_count(rows.targets) for rows in parts]
        self.shares = tuple(count / sum(counts) for count in counts)
        self._rows = parts[0]  # those of the pass that is under way
        self.forwards = 0
        self.values: StepValues | None = None  # of the first backward pass
        self._statistics: Buffers | None = None  # as the part's first pass left them

    @property
    def is_first(self) -> bool:
        """Whether no backward pass is done yet."""
        return self.values is None

    def backward(self) -> Tensor:
        """Leave the gradients of one backward pass; return the task's loss, detached."""
        self._steps.clear_gradients()
        self._steps.point_at(self.step)
        with torch.enable_grad():  # advance() may be in no_grad mode
            values = self._steps.backward(self)
        if self.values is None:
            self.values = values
        return values.loss

    def first_pass(self, part: int) -> Forward:
        """Return the pass over a part; only those of the first backward move statistics."""
        self._rows = self._parts[part]
        if not self.is_first:
            self._hold_statistics()
        self.forwards += 1
        return self._steps.forward(self._rows, self)

    def again(self, inputs: Any) -> Forward:
        """Return an extra pass, which moves no statistics."""
        found, wanted = (row_count(values) for values in (inputs, self._rows.targets))
        if found != wanted:
            raise FtbenchError(
                f"forward.again() was given {found} rows, and the batch has {wanted}, as many as "
                "targets; call the model itself for other rows"
            )
        self._hold_statistics()
        self.forwards += 1
        rows = SeenRows(functools.partial(as_is, inputs), self._rows.targets, self._rows.plan)
        return self._steps.forward(rows, self)

    def _hold_statistics(self) -> None:
        """Keep what has to be put back after the backward pass: it needs them as they were."""
        if self._statistics is None:
            self._statistics = self._steps.statistics()

    def put_statistics_back(self) -> None:
        """Forget what extra passes moved, before the next part of the batch moves them."""
        if self._statistics is not None:
            self._statistics.restore()
            self._statistics = None


def _is_overridden(strategy: Strategy, method: str) -> bool:
    """Return whether a strategy has another method than the base class's."""
    return getattr(type(strategy), method) is not getattr(Strategy, method)


def _mean(values: Sequence[StepValues], shares: Sequence[float]) -> StepValues:
    """Return the mean of what parts of a batch came to, weighted by their rows."""
    if len(values) == 1:
        return values[0]
    loss = sum((share * v.loss for share, v in zip(shares, values, strict=True)), torch.zeros(()))
    rests = [share * v.rest for share, v in zip(shares, values, strict=True) if v.rest is not None]
    return StepValues(loss, sum(rests, torch.zeros(())) if rests else None)


def _wants_gradient(inputs: Any) -> bool:
    return any(leaf.requires_grad for leaf in _pytree.tree_leaves(inputs))
