"""Head-only fine-tuning, also called linear probing or feature extraction."""

from __future__ import annotations

from pydantic import Field

from ftbench.backbone import Stage
from ftbench.strategy import Strategy, StrategyOptions


class HeadOnlyOptions(StrategyOptions):
    """Options of ``head-only``."""

    rate: float = Field(
        10.0,
        gt=0,
        description="factor on the recipe's head rate: a lone linear layer wants a larger one",
    )


class HeadOnly(Strategy[HeadOnlyOptions]):
    """Only the new head trains, on the pre-trained features."""

    name = "head-only"
    version = "1"

    def trains(self, stage: Stage, progress: float) -> bool:
        """Return whether this is the head."""
        return stage.is_head

    def rate(self, stage: Stage, progress: float) -> float:
        """Return the option's factor."""
        return float(self.options.rate)
