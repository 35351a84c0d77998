"""The optimizer, with one group per part and kind of parameter, and the rates of a step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ftbench.answers import refusal, require, require_flag, require_number
from ftbench.backbone import Model, Stage, undecayed_parameters
from ftbench.errors import FtbenchError
from ftbench.recipe import Recipe
from ftbench.recipe_parts import Optimizer, Schedule
from ftbench.strategy import Strategy


def build_optimizer(
    model: Model, strategy: Strategy, weight_decay: float, optimizer: Optimizer
) -> torch.optim.Optimizer:
    """Return an optimizer over every parameter that may train, decay set, rates still to set.

    A parameter is in the groups of the part that owns it: see :meth:`ftbench.Model.owned`.
    """
    groups: list[dict[str, Any]] = []
    undecayed = undecayed_parameters(model)
    for index, part in enumerate(model.owned()):
        trainable = [p for p in part.parameters.values() if p.requires_grad]
        answer = strategy.decays(part.stage)
        is_decayed = require_flag(answer, strategy, f"decays() for {part.stage.name}")
        for decays in (True, False):
            parameters: list[nn.Parameter] = [
                p for p in trainable if (p not in undecayed) == decays
            ]
            if parameters:
                decay = weight_decay if decays and is_decayed else 0.0
                described = {"weight_decay": decay, "stage": part.stage, "part": index}
                groups.append({"params": parameters, **described})
    if not groups:
        raise FtbenchError(
            f"strategy '{strategy.name}' left no parameter that requires a gradient; "
            "prepare() must leave at least one"
        )
    return _built(optimizer, groups)


class Groups:
    """Shows an optimizer only the groups that train now: those that do not cost it time each step.

    Optimizers of torch alone: others may hold their groups elsewhere as well.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._all = list(optimizer.param_groups)
        self._is_torchs = type(optimizer).__module__.startswith("torch.optim.")
        self._now: tuple[bool, ...] | None = None

    def show(self, now: tuple[bool, ...]) -> None:
        """Show the groups of the parts that train; ``now`` says of each whether it does."""
        if self._is_torchs and now != self._now:
            self._now = now
            self._optimizer.param_groups = [group for group in self._all if now[group["part"]]]


def rehearse_optimizer(optimizer: Optimizer, device: str) -> None:
    """Step once over a number of its own: the first step of a process loads code, no run's cost."""
    number = torch.zeros(1, device=device, requires_grad=True)
    number.grad = torch.zeros_like(number)
    _built(optimizer, [{"params": [number]}]).step()


def _built(optimizer: Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    what = f"optimizer '{optimizer.name}': build() returned"
    return require(optimizer.build(groups), torch.optim.Optimizer, what, "a torch.optim.Optimizer")


def checked_factor(schedule: Schedule, step: int, total_steps: int) -> float:
    """Return the schedule's factor; FtbenchError where it is no finite number of at least 0."""
    what = f"schedule '{schedule.name}': factor({step}, {total_steps}) returned"
    factor = require_number(schedule.factor(step, total_steps), what)
    if not (math.isfinite(factor) and factor >= 0):
        raise refusal(factor, what, "a finite number of at least 0")
    return factor


def set_rates(
    optimizer: torch.optim.Optimizer, rates: Sequence[float], recipe: Recipe, factor: float
) -> None:
    """Set every group's learning rate for a step.

    ``rates`` holds the strategy's factor of each part, ``factor`` is the schedule's.
    """
    base = recipe.learning_rate * factor
    for group in optimizer.param_groups:
        stage: Stage = group["stage"]
        head_factor = recipe.head_rate_factor if stage.is_head else 1.0
        group["lr"] = base * rates[group["part"]] * head_factor
