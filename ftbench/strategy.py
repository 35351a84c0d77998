"""The base class of a fine-tuning strategy: what trains, at which rate, and what holds it back."""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

from torch import Tensor, nn

from ftbench.backbone import Model, Stage
from ftbench.component import Component, Options, OptionsT
from ftbench.ops import QuadraticPenalty
from ftbench.training import Data, Forward, Step


class StrategyOptions(Options):
    """Base of a strategy's options: a frozen pydantic model; unknown names are refused."""


Refusal = Literal["mixing", "accumulation", "frozen-statistics"]
REFUSALS: tuple[Refusal, ...] = get_args(Refusal)

INTERFACE = 2
"""The version of what a strategy may define and is handed; a plugin may state the one that it was
written for: ``ftbench_interface = 2`` beside its hooks."""


class Strategy(Component[OptionsT]):
    """One way to fine-tune. Override what differs from training everything at the recipe's rate.

    A fresh instance serves each run, so methods may keep state on ``self``. They are handed
    neither the test set nor the pool. Draws from the global generators of torch, NumPy and Python
    are seeded for the run and touch nothing else.
    """

    kind: ClassVar[str] = "strategy"
    pretrained: ClassVar[bool] = True
    """False: start from random weights, whose normalisation statistics always update."""
    scheduled: ClassVar[bool] = True
    """False: rate() alone shapes the rate over time; the recipe's schedule is left out."""
    validates: ClassVar[bool] = False
    """True: rows are held back (recipe.validation_share) as data.validation in any case."""
    refuses: ClassVar[tuple[Refusal, ...]] = ()
    """What this cannot be trained with, an error when a sweep is planned: ``mixing``,
    ``accumulation``, ``frozen-statistics``."""
    remark: str = ""
    """What a reader of the table should know of this run, a sentence; ``prepare`` may set it."""
    Options: ClassVar[type[Options]] = StrategyOptions

    def prepare(self, model: Model, data: Data) -> None:
        """Change or measure the model before training: inject modules, estimate a Fisher.

        A parameter whose ``requires_grad`` is switched off here stays frozen in a stage that
        trains; one that is registered here on a stage, on the head or in ``model.extras`` trains
        with it. No optimizer moves any other, such as an ``nn.Parameter`` on ``self``, and a
        penalty or objective that depends on one fails the run.
        """

    def trains(self, stage: Stage, progress: float) -> bool:
        """Return whether a stage, or the head, trains. ``progress`` runs from 0 to 1.

        Asked about every part once a step, before the rates; ``model.extras`` are asked about as
        a head-like stage named ``extras``. What several parts share follows the first of them: see
        :meth:`ftbench.Model.owned`.
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

        For what depends on weights alone; asked once a backward pass. Both forms give the same
        parameters; a :class:`QuadraticPenalty` is applied in one pass after the backward pass and
        is the faster way.
        """
        return None

    def objective(self, forward: Forward) -> Tensor:
        """Return what is minimized over a batch: 0-dim, a mean over its rows.

        For what depends on the batch. The penalty is added to it.
        """
        return forward.loss

    def advance(self, step: Step) -> None:
        """Take one optimizer step: ``step.backward()`` at least once, ``step.update()`` once."""
        step.backward()
        step.update()

    def finish(self, model: Model, data: Data) -> nn.Module | None:
        """Change the model after training, before it is scored: merge, average, interpolate.

        Or return the module that is scored in its place: an average of views, an ensemble. The
        modules in ``model.extras`` are gone by then, unless that module holds them.
        """
        return None
