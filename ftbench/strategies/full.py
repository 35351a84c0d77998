"""Full fine-tuning, with one rate or with rates that fall towards the input."""

from __future__ import annotations

from pydantic import Field

from ftbench.backbone import Stage
from ftbench.strategy import Strategy, StrategyOptions


class FullOptions(StrategyOptions):
    """Options of ``full``."""

    decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="factor on the rate per stage below the head (ULMFiT 1/2.6, BEiT 0.65)",
    )


class Full(Strategy[FullOptions]):
    """Everything trains from pre-trained weights; ``decay`` below 1 gives differential rates."""

    name = "full"
    version = "1"

    def rate(self, stage: Stage, progress: float) -> float:
        """Return ``decay`` to the power of the distance from the head."""
        return float(self.options.decay**stage.from_top)
