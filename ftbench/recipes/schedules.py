"""Learning-rate schedules as pure functions of the step."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from ftbench.component import Options
from ftbench.recipe_parts import Schedule


class WarmupOptions(Options):
    """Options of every built-in schedule."""

    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps that warm up linearly")


class WarmedUp(Schedule[WarmupOptions]):
    """Base: the first ``warmup`` share of the steps rises linearly and ends at 1."""

    def factor(self, step: int, total_steps: int) -> float:
        """Return the factor in [0, 1]: the warm-up's, or that of the rest."""
        warmup_steps = round(self.options.warmup * total_steps)
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return self.rest((step - warmup_steps) / max(1, total_steps - warmup_steps))

    def rest(self, progress: float) -> float:
        """Return the factor after the warm-up, at a progress in [0, 1)."""
        raise NotImplementedError(f"schedule '{self.name}' must define rest()")


class Constant(WarmedUp):
    """The learning rate stays."""

    name = "constant"
    version = "1"

    def rest(self, progress: float) -> float:
        """Return 1."""
        return 1.0


class Cosine(WarmedUp):
    """The learning rate falls to 0 along half a cosine (Loshchilov & Hutter 2017, ICLR)."""

    name = "cosine"
    version = "1"

    def rest(self, progress: float) -> float:
        """Return (1 + cos πp) / 2."""
        return 0.5 * (1 + math.cos(math.pi * progress))


class Linear(WarmedUp):
    """The learning rate falls to 0 along a line."""

    name = "linear"
    version = "1"

    def rest(self, progress: float) -> float:
        """Return 1 − p."""
        return 1 - progress


class StepsOptions(WarmupOptions):
    """Options of ``steps``."""

    at: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.3, 0.6, 0.9), description="shares of the steps at which the rate falls"
    )
    factor: float = Field(0.1, gt=0, lt=1, description="of the rate that is left each time")


class Steps(Schedule[StepsOptions]):
    """The learning rate falls by a factor at given shares of all steps (Kolesnikov et al. 2020).

    Shares count from the first step, the warm-up included.
    """

    name = "steps"
    version = "1"

    def factor(self, step: int, total_steps: int) -> float:
        """Return the factor in (0, 1]."""
        warmup_steps = round(self.options.warmup * total_steps)
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        fallen = sum(step >= round(share * total_steps) for share in self.options.at)
        return float(self.options.factor**fallen)


class ExponentialOptions(WarmupOptions):
    """Options of ``exponential``."""

    factor: float = Field(0.9, gt=0, lt=1, description="of the rate that is left each time")
    every: int = Field(1000, gt=0, description="steps between two falls")


class Exponential(Schedule[ExponentialOptions]):
    """The learning rate falls by a factor every so many steps, in a staircase."""

    name = "exponential"
    version = "1"

    def factor(self, step: int, total_steps: int) -> float:
        """Return the factor in (0, 1]."""
        warmup_steps = round(self.options.warmup * total_steps)
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return float(self.options.factor ** ((step - warmup_steps) // self.options.every))
