"""Which parts train now: gradients, eval mode and the frozen prefix, kept in step with progress."""

from __future__ import annotations

from torch import nn

from ftbench.backbone import NORMS, Model
from ftbench.strategy import Strategy


class Freezer:
    """Applies a strategy's ``trains`` to a model, touching it only where the answer changes.

    A frozen part is in eval mode (no dropout, no statistics update) and takes no gradients. With
    ``update_statistics`` False, the running statistics of the backbone's norms stay as they are
    even where its weights train. The head is new, so its own always update.
    """

    def __init__(self, model: Model, strategy: Strategy, *, update_statistics: bool) -> None:
        self._model = model
        self._strategy = strategy
        self._update_statistics = update_statistics
        # What a strategy's prepare() has frozen inside a part stays frozen.
        self._trainable = [
            [p for p in module.parameters() if p.requires_grad] for _, module in model.parts()
        ]
        self._now: tuple[bool, ...] | None = None
        self.ever_trained: set[nn.Parameter] = set()

    @property
    def frozen_stages(self) -> int:
        """How many leading stages are frozen now."""
        assert self._now is not None  # apply() comes first
        return next((i for i, trains in enumerate(self._now[:-1]) if trains), len(self._now) - 1)

    @property
    def anything_trains(self) -> bool:
        """Whether any parameter takes a gradient now."""
        assert self._now is not None  # apply() comes first
        return any(t and ps for t, ps in zip(self._now, self._trainable, strict=True))

    def apply(self, progress: float) -> None:
        """Freeze and thaw parts for ``progress``."""
        parts = self._model.parts()
        now = tuple(bool(self._strategy.trains(stage, progress)) for stage, _ in parts)
        if now == self._now:
            return
        self._now = now
        for trains, parameters in zip(now, self._trainable, strict=True):
            for parameter in parameters:
                parameter.requires_grad_(trains)
                parameter.grad = None
            if trains:
                self.ever_trained.update(parameters)
        self.set_modes()

    def set_modes(self) -> None:
        """Put every module in train or eval mode; needed again after a validation."""
        assert self._now is not None  # apply() comes first
        for (stage, module), trains in zip(self._model.parts(), self._now, strict=True):
            module.train(trains)
            if not (self._update_statistics or stage.is_head):
                _freeze_statistics(module)


def _freeze_statistics(module: nn.Module) -> None:
    for child in module.modules():
        if isinstance(child, NORMS):
            child.eval()
