"""Which parts train now: gradients, eval mode and the frozen prefix, kept in step with progress."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import nn

from ftbench.answers import require_flag
from ftbench.backbone import NORMS, Model, Part, Stage
from ftbench.errors import FtbenchError
from ftbench.strategy import Strategy


class Freezer:
    """Applies a strategy's ``trains`` and ``rate`` to a model, touching it only where they change.

    A part is frozen where ``trains`` says no or its rate is 0: it is in eval mode (no dropout, no
    statistics update) and takes no gradients. A parameter, or a module, that several parts hold
    follows the first of them. With ``update_statistics`` False, the running statistics of the
    backbone stay as they are even where its weights train: those of torch's norms, and of the
    modules handed to :meth:`hold_statistics`. The head is new, so its own always update.
    """

    def __init__(self, model: Model, strategy: Strategy, *, update_statistics: bool) -> None:
        self._model = model
        self._strategy = strategy
        self._update_statistics = update_statistics
        self._held: frozenset[nn.Module] = frozenset()
        # What a strategy's prepare() has frozen inside a part stays frozen.
        self._trainable = [
            [p for p in part.parameters.values() if p.requires_grad] for part in model.owned()
        ]
        self._asked: set[int] = set()  # parts that were to train at some time
        self._now: tuple[bool, ...] | None = None
        self.rates: tuple[float, ...] = ()
        """The factor on the recipe's rate of each part now, 0 where it is frozen."""
        self.ever_trained: set[nn.Parameter] = set()

    @property
    def now(self) -> tuple[bool, ...]:
        """Whether each part trains now."""
        assert self._now is not None  # apply() comes first
        return self._now

    @property
    def frozen_stages(self) -> int:
        """How many leading stages are frozen now."""
        depth = len(self._model.stages)
        return next((i for i, trains in enumerate(self.now[:depth]) if trains), depth)

    @property
    def anything_trains(self) -> bool:
        """Whether any parameter takes a gradient now."""
        return any(t and ps for t, ps in zip(self.now, self._trainable, strict=True))

    def apply(self, progress: float) -> None:
        """Freeze and thaw parts for ``progress``; FtbenchError for a rate that is none."""
        stages = [stage for stage, _ in self._model.parts()]
        trains = [_trains(self._strategy, stage, progress) for stage in stages]
        rates = [_rate(self._strategy, stage, progress) for stage in stages]
        self.rates = tuple(r if t else 0.0 for t, r in zip(trains, rates, strict=True))
        now = tuple(rate > 0 for rate in self.rates)
        if now == self._now:
            return
        self._now = now
        self._asked.update(index for index, trains in enumerate(now) if trains)
        for trains_now, parameters in zip(now, self._trainable, strict=True):
            for parameter in parameters:
                parameter.requires_grad_(trains_now)
                parameter.grad = None
            if trains_now:
                self.ever_trained.update(parameters)
        self.set_modes()

    def hold_statistics(self, modules: Iterable[nn.Module]) -> None:
        """Keep these out of train mode as well, where statistics do not update."""
        self._held = frozenset(modules)
        self.set_modes()

    def set_modes(self) -> None:
        """Put every module in train or eval mode; needed again after a validation."""
        parts = list(zip(self._model.parts(), self.now, strict=True))
        # The first part that holds a module has the last word on it.
        for (stage, module), trains in reversed(parts):
            module.train(trains)
            if not (self._update_statistics or stage.is_head):
                freeze_statistics(module, self._held)

    def refuse_idleness(self) -> None:
        """Raise FtbenchError where parts were to train, and none had anything to train."""
        if self.ever_trained or not self._asked:
            return
        parts = self._model.owned()
        reasons = "; ".join(_why_idle(parts, index) for index in sorted(self._asked))
        raise FtbenchError(
            f"strategy '{self._strategy.name}' trained nothing in this run: {reasons}; "
            "choose a strategy that trains what holds the parameters"
        )


def freeze_statistics(module: nn.Module, held: frozenset[nn.Module] = frozenset()) -> None:
    """Take norms, and the modules ``held``, out of train mode; what they contain stays in it."""
    for child in module.modules():
        if isinstance(child, NORMS) or child in held:
            child.training = False


def _trains(strategy: Strategy, stage: Stage, progress: float) -> bool:
    answer = strategy.trains(stage, progress)
    # A forgotten `return` would freeze the part without a word.
    return require_flag(answer, strategy, f"trains() for {stage.name} at progress {progress:.2f}")


def _rate(strategy: Strategy, stage: Stage, progress: float) -> float:
    factor = strategy.rate(stage, progress)
    if not (isinstance(factor, int | float) and math.isfinite(factor) and factor >= 0):
        raise FtbenchError(
            f"strategy '{strategy.name}': rate() returned {factor!r} for {stage.name} at "
            f"progress {progress:.2f}; expected a finite number of at least 0"
        )
    return factor


def _why_idle(parts: list[Part], index: int) -> str:
    part = parts[index]
    held = set(part.module.parameters())
    owners = [p.stage.name for p in parts[:index] if not held.isdisjoint(p.parameters.values())]
    if part.parameters:
        return f"prepare() switched off requires_grad of all that {part.stage.name} owns"
    if owners:
        shared = f"shares its parameters with {' and '.join(owners)}"
        return f"{part.stage.name} {shared}, which came first and so owns them"
    return f"{part.stage.name} holds no parameter"
