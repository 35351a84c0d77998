"""Elastic weight consolidation (Kirkpatrick et al. 2017, PNAS)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ftbench.backbone import Model, Stage
from ftbench.errors import SpecError
from ftbench.fisher import diagonal_fisher, draw_classes
from ftbench.ops import QuadraticPenalty
from ftbench.strategy import Strategy, StrategyOptions
from ftbench.task import Draw, Examples
from ftbench.training import Data


class EWCOptions(StrategyOptions):
    """Options of ``ewc``."""

    strength: float = Field(10.0, ge=0, description="λ")
    samples: int = Field(1000, gt=0, description="rows behind the Fisher, at most")
    fisher: Literal["true", "empirical"] = Field(
        "true", description="labels drawn from the model's prediction, or the data set's own"
    )
    fisher_data: Literal["auto", "source", "training"] = Field(
        "auto",
        description="source: samples of the source task; training: the run's own training inputs, "
        "with labels drawn from the source head's predictions; auto: source where there is one",
    )


@dataclass(frozen=True)
class _FisherData:
    """What a Fisher is estimated from."""

    rows: Literal["source", "training"]
    examples: Examples
    head: nn.Module
    loss: Callable[[Any, Any], Tensor] = F.cross_entropy
    draw: Draw = draw_classes


class EWC(Strategy[EWCOptions]):
    """Everything trains under ``λ/2·Σ F_i (θ_i − θ⁰_i)²``; no decay on the shared weights."""

    name = "ewc"
    version = "1"

    def prepare(self, model: Model, data: Data) -> None:
        """Estimate the pre-trained model's Fisher with its own head."""
        found = self._fisher_data(data)
        rows = np.arange(min(self.options.samples, len(found.examples)))
        batch = found.examples.batch(rows)
        pretrained = nn.Sequential(*model.stages, found.head)
        names = {parameter: name for name, parameter in pretrained.named_parameters()}
        shared = list(model.shared_parameters().values())

        def estimate() -> dict[str, Tensor]:
            return diagonal_fisher(
                pretrained,
                batch.inputs,
                parameters=[names[parameter] for parameter in shared],
                labels=batch.targets if self.options.fisher == "empirical" else None,
                loss=found.loss,
                draw=found.draw,
            )

        # The same for every seed and size where it is of the source: its draws are always seed 0's.
        fisher = data.shared(
            "diagonal fisher",
            estimate,
            rows=found.rows,
            samples=len(rows),
            labels=self.options.fisher,
            parameters=[names[parameter] for parameter in shared],
        )
        self._penalty = QuadraticPenalty(
            shared,
            [parameter.detach().clone() for parameter in shared],
            [self.options.strength * fisher[names[parameter]] for parameter in shared],
        )

    def _fisher_data(self, data: Data) -> _FisherData:
        """Return what the options say; SpecError where it is not to be had."""
        source, wanted = data.source, self.options.fisher_data
        if source is not None and wanted != "training":
            if not len(source.samples):
                raise SpecError(
                    "ewc needs source samples: the task's source().samples holds no rows; "
                    "fisher_data='training' takes the run's own training inputs"
                )
            return _FisherData("source", source.samples, source.head, source.loss, source.draw)
        if wanted == "source":
            raise SpecError(
                "ewc(fisher_data='source') needs a source task: this task and backbone share none; "
                "fisher_data='training' takes the run's own training inputs"
            )
        if data.source_head is None:
            raise SpecError(
                "ewc needs a source task or the head of one: this task and backbone share none, "
                "and the weights bring no head; l2sp holds weights back without either"
            )
        if self.options.fisher == "empirical":
            raise SpecError(
                "ewc(fisher='empirical') needs labels of the source task, and there are none; "
                "fisher='true' draws them from the source head's predictions"
            )
        self.remark = "its Fisher is of the source head's predictions on the training inputs"
        return _FisherData("training", data.training, data.source_head)

    def decays(self, stage: Stage) -> bool:
        """Return whether this is the head: decay to zero contradicts a pull to the start."""
        return stage.is_head

    def penalty(self, model: Model) -> QuadraticPenalty:
        """Return the penalty."""
        return self._penalty
