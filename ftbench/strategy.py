"""The base class of a fine-tuning strategy: what trains, at which rate, and what holds it back."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ftbench.backbone import Model, Stage
from ftbench.component import Component, Options, OptionsT
from ftbench.ops import QuadraticPenalty
from ftbench.task import Source


class StrategyOptions(Options):
    """Base of a strategy's options: a frozen pydantic model; unknown names are refused."""


class Strategy(Component[OptionsT]):
    """One way to fine-tune. Override what differs from training everything at the recipe's rate.

    A fresh instance serves each run, so methods may keep state on ``self``. They are handed
    neither the test set nor the pool. Draws from the global generators of torch, NumPy and Python
    are seeded for the run and touch nothing else.
    """

    kind: ClassVar[str] = "strategy"
    pretrained: ClassVar[bool] = True
    """False: start from random weights, whose normalisation statistics always update."""
    Options: ClassVar[type[Options]] = StrategyOptions

    def prepare(self, model: Model, source: Source | None) -> None:
        """Change or measure the model before training: inject modules, estimate a Fisher.

        ``source`` is None where the task or the backbone has no source task. A parameter whose
        ``requires_grad`` is switched off here stays frozen in a stage that trains; one that is
        registered here on a stage or the head trains with it. No optimizer moves any other, such
        as an ``nn.Parameter`` on ``self``, and a penalty that depends on one fails the run.
        """

    def trains(self, stage: Stage, progress: float) -> bool:
        """Return whether a stage, or the head, trains. ``progress`` runs from 0 to 1.

        Asked about every part once a step, before the rates. What several parts share follows
        the first of them: see :meth:`ftbench.Model.owned`.
        """
        return True

    def rate(self, stage: Stage, progress: float) -> float:
        """Return the factor on the recipe's learning rate for a stage or the head; 0 freezes it."""
        return 1.0

    def decays(self, stage: Stage) -> bool:
        """Return whether the recipe's weight decay applies to a stage or the head."""
        return True

    def penalty(self, model: Model) -> QuadraticPenalty | Tensor | None:
        """Return what is added to the loss: a differentiable 0-dim tensor, or a quadratic one.

        Both give the same parameters; a :class:`QuadraticPenalty` is applied in one pass after the
        backward pass and is the faster way.
        """
        return None

    def finish(self, model: Model) -> None:
        """Change the model after training, before it is scored: merge, average, interpolate."""
