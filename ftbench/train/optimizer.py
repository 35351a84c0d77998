"""The optimizer, with one group per part and kind of parameter, and the rates of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ftbench.answers import require_flag
from ftbench.backbone import Model, Stage, undecayed_parameters
from ftbench.errors import FtbenchError
from ftbench.recipe import Recipe
from ftbench.strategy import Strategy
from ftbench.train.schedule import schedule_factor


def build_optimizer(model: Model, strategy: Strategy, recipe: Recipe) -> torch.optim.Optimizer:
    """Return an optimizer over every parameter that may train, decay set, rates still to set.

    A parameter is in the groups of the part that owns it: see :meth:`ftbench.Model.owned`.
    """
    groups: list[dict[str, Any]] = []
    undecayed = undecayed_parameters(model)
    for part in model.owned():
        trainable = [p for p in part.parameters.values() if p.requires_grad]
        answer = strategy.decays(part.stage)
        is_decayed = require_flag(answer, strategy, f"decays() for {part.stage.name}")
        for decays in (True, False):
            parameters: list[nn.Parameter] = [
                p for p in trainable if (p not in undecayed) == decays
            ]
            if parameters:
                decay = recipe.weight_decay if decays and is_decayed else 0.0
                groups.append({"params": parameters, "weight_decay": decay, "stage": part.stage})
    if not groups:
        raise FtbenchError(
            f"strategy '{strategy.name}' left no parameter that requires a gradient; "
            "prepare() must leave at least one"
        )
    return _optimizer(groups, recipe)


def rehearse_optimizer(recipe: Recipe, device: str) -> None:
    """Step once over a number of its own: the first step of a process loads code, no run's cost."""
    number = torch.zeros(1, device=device, requires_grad=True)
    number.grad = torch.zeros_like(number)
    _optimizer([{"params": [number]}], recipe).step()


def _optimizer(groups: list[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=0.0, momentum=recipe.momentum, nesterov=recipe.momentum > 0
        )
    # Fused: one pass over the parameters instead of a dozen small ones per tensor.
    return torch.optim.AdamW(groups, lr=0.0, fused=True)


def set_rates(
    optimizer: torch.optim.Optimizer,
    rates: Sequence[float],
    recipe: Recipe,
    step: int,
    total_steps: int,
) -> None:
    """Set every group's learning rate for ``step``; ``rates`` holds the factor of each part."""
    base = recipe.learning_rate * schedule_factor(recipe, step, total_steps)
    for group in optimizer.param_groups:
        stage: Stage = group["stage"]
        head_factor = recipe.head_rate_factor if stage.is_head else 1.0
        group["lr"] = base * rates[stage.index] * head_factor
