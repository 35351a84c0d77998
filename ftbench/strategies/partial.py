"""Partial fine-tuning: the last stages and the head."""

from __future__ import annotations

from pydantic import Field

from ftbench.backbone import Model, Stage
from ftbench.errors import SpecError
from ftbench.strategy import Strategy, StrategyOptions
from ftbench.training import Data


class PartialOptions(StrategyOptions):
    """Options of ``partial``."""

    stages: int = Field(1, ge=0, description="how many of the last stages train with the head")


class Partial(Strategy[PartialOptions]):
    """The last ``stages`` stages and the head train; what is below keeps its general features."""

    name = "partial"
    version = "1"

    def prepare(self, model: Model, data: Data) -> None:
        """Refuse more stages than there are: the run would be full fine-tuning by another name."""
        if self.options.stages > len(model.stages):
            raise SpecError(
                f"partial(stages={self.options.stages}): this backbone has {len(model.stages)} "
                "stages"
            )

    def trains(self, stage: Stage, progress: float) -> bool:
        """Return whether the stage is among the last ones, or the head."""
        return bool(stage.from_top <= self.options.stages)
