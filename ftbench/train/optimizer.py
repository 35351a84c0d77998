"""The optimizer, with one group per part and kind of parameter, and the rates of a step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from ftbench.backbone import Model, Stage, undecayed_parameters
from ftbench.errors import FtbenchError
from ftbench.recipe import Recipe
from ftbench.strategy import Strategy
from ftbench.train.schedule import schedule_factor


def build_optimizer(model: Model, strategy: Strategy, recipe: Recipe) -> torch.optim.Optimizer:
    """Return an optimizer over every parameter that may train, decay set, rates still to set."""
    groups: list[dict[str, Any]] = []
    for stage, module in model.parts():
        undecayed = undecayed_parameters(module)
        trainable = [p for p in module.parameters() if p.requires_grad]
        for decays in (True, False):
            parameters: list[nn.Parameter] = [
                p for p in trainable if (p not in undecayed) == decays
            ]
            if parameters:
                decay = recipe.weight_decay if decays and strategy.decays(stage) else 0.0
                groups.append({"params": parameters, "weight_decay": decay, "stage": stage})
    if not groups:
        raise FtbenchError(
            f"strategy '{strategy.name}' left no parameter that requires a gradient; "
            "prepare() must leave at least one"
        )
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=0.0, momentum=recipe.momentum, nesterov=recipe.momentum > 0
        )
    # Fused: one pass over the parameters instead of a dozen small ones per tensor.
    return torch.optim.AdamW(groups, lr=0.0, fused=True)


def set_rates(
    optimizer: torch.optim.Optimizer,
    strategy: Strategy,
    recipe: Recipe,
    step: int,
    total_steps: int,
) -> None:
    """Set every group's learning rate for ``step``."""
    base = recipe.learning_rate * schedule_factor(recipe, step, total_steps)
    for group in optimizer.param_groups:
        stage: Stage = group["stage"]
        factor = strategy.rate(stage, step / total_steps)
        if not (isinstance(factor, int | float) and math.isfinite(factor) and factor >= 0):
            raise FtbenchError(
                f"strategy '{strategy.name}': rate() returned {factor!r} for {stage.name} at "
                f"progress {step / total_steps:.2f}; expected a finite number of at least 0"
            )
        group["lr"] = base * factor * (recipe.head_rate_factor if stage.is_head else 1.0)
