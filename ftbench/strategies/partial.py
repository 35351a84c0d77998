"""Partial fine-tuning: the last stages and the head."""

from __future__ import annotations

from pydantic import Field

from ftbench.backbone import Model, Stage
from ftbench.errors import SpecError, did_you_mean
from ftbench.strategy import Strategy, StrategyOptions
from ftbench.training import Data


class PartialOptions(StrategyOptions):
    """Options of ``partial``."""

    stages: int = Field(1, ge=0, description="how many of the last stages train with the head")
    last: str = Field(
        "", description="the lowest stage that trains, by its name, instead of a count: layer4"
    )


class Partial(Strategy[PartialOptions]):
    """The last ``stages`` stages and the head train; what is below keeps its general features."""

    name = "partial"
    version = "1"
    _counted = 0  # stages from the one that the options name up

    def prepare(self, model: Model, data: Data) -> None:
        """Find the lowest stage that trains.

        SpecError for an unknown name, or more stages than there are: the run would be full
        fine-tuning by another name.
        """
        names, last = model.stage_names, self.options.last
        if last and last not in names:
            raise SpecError(
                f"partial(last={last!r}): this backbone has no such stage"
                f"{did_you_mean(last, names)} (it has {', '.join(names)})"
            )
        if self.options.stages > len(names):
            raise SpecError(
                f"partial(stages={self.options.stages}): this backbone has {len(names)} stages"
            )
        if last:
            self._counted = len(names) - names.index(last)

    def trains(self, stage: Stage, progress: float) -> bool:
        """Return whether the stage is among the last ones, or the head."""
        return bool(stage.from_top <= (self._counted or self.options.stages))
