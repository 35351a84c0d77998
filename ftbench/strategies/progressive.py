"""Progressive unfreezing: the head first, then stages from the top down."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ftbench.backbone import Stage
from ftbench.strategy import Strategy, StrategyOptions


class ProgressiveOptions(StrategyOptions):
    """Options of ``progressive``."""

    form: Literal["classic", "gradual"] = Field(
        "gradual",
        description="gradual: one more stage a phase, all at the recipe's rate (ULMFiT, Howard & "
        "Ruder 2018); classic: three phases (head; upper stages; everything), each at its rate",
    )
    upper: int = Field(2, ge=1, description="classic: stages that join in the second phase")
    rates: tuple[float, float, float] = Field(
        (1.0, 0.1, 0.01), description="classic: factor on the recipe's rate in each phase"
    )


class Progressive(Strategy[ProgressiveOptions]):
    """Stages thaw from the top down, in phases of equal length."""

    name = "progressive"
    version = "2"

    def trains(self, stage: Stage, progress: float) -> bool:
        """Return whether the stage has thawed."""
        if self.options.form == "gradual":
            # The margin keeps a phase from starting a step late where the product rounds down.
            return stage.from_top <= progress * (stage.depth + 1) + 1e-9
        return bool(stage.from_top <= (0, self.options.upper, stage.depth)[_third(progress)])

    def rate(self, stage: Stage, progress: float) -> float:
        """Return the phase's factor."""
        return 1.0 if self.options.form == "gradual" else self.options.rates[_third(progress)]


def _third(progress: float) -> int:
    return min(2, int(progress * 3))
