"""Elastic weight consolidation (Kirkpatrick et al. 2017, PNAS)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field
from torch import nn

from ftbench.backbone import Model, Stage
from ftbench.errors import SpecError
from ftbench.fisher import diagonal_fisher
from ftbench.ops import QuadraticPenalty
from ftbench.strategy import Strategy, StrategyOptions
from ftbench.training import Data


class EWCOptions(StrategyOptions):
    """Options of ``ewc``."""

    strength: float = Field(10.0, ge=0, description="λ")
    samples: int = Field(1000, gt=0, description="source samples behind the Fisher")
    fisher: Literal["true", "empirical"] = Field(
        "true", description="labels drawn from the model's prediction, or the data set's own"
    )


class EWC(Strategy[EWCOptions]):
    """Everything trains under ``λ/2·Σ F_i (θ_i − θ⁰_i)²``; no decay on the shared weights."""

    name = "ewc"
    version = "1"

    def prepare(self, model: Model, data: Data) -> None:
        """Estimate the pre-trained model's Fisher with its own head on source samples."""
        source = data.source
        if source is None:
            raise SpecError(
                "ewc needs a source task: this task and backbone share none; "
                "l2sp holds weights back without one"
            )
        if not len(source.samples):
            raise SpecError(
                "ewc needs source samples: the task's source().samples holds no rows; "
                "l2sp holds weights back without any"
            )
        rows = np.arange(min(self.options.samples, len(source.samples)))
        batch = source.samples.batch(rows)
        pretrained = nn.Sequential(*model.stages, source.head)
        names = {parameter: name for name, parameter in pretrained.named_parameters()}
        shared = list(model.shared_parameters().values())
        fisher = diagonal_fisher(
            pretrained,
            batch.inputs,
            parameters=[names[parameter] for parameter in shared],
            labels=batch.targets if self.options.fisher == "empirical" else None,
            loss=source.loss,
            draw=source.draw,
        )
        self._penalty = QuadraticPenalty(
            shared,
            [parameter.detach().clone() for parameter in shared],
            [self.options.strength * fisher[names[parameter]] for parameter in shared],
        )

    def decays(self, stage: Stage) -> bool:
        """Return whether this is the head: decay to zero contradicts a pull to the start."""
        return stage.is_head

    def penalty(self, model: Model) -> QuadraticPenalty:
        """Return the penalty."""
        return self._penalty
