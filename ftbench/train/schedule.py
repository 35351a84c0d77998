"""Learning-rate schedules as pure functions of the step."""

from __future__ import annotations

import math

from ftbench.recipe import Recipe


def schedule_factor(recipe: Recipe, step: int, total_steps: int) -> float:
    """Return the factor in [0, 1] on every learning rate at ``step``, counted from 0.

    The first ``warmup`` share of the steps rises linearly and ends at 1; the rest is constant, or
    falls to 0 along half a cosine or a line.
    """
    warmup_steps = round(recipe.warmup * total_steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if recipe.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if recipe.schedule == "linear":
        return 1 - progress
    return 1.0
