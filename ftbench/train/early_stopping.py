"""Early stopping: the best weights by validation loss, and when to give up."""

from __future__ import annotations

import math

from torch import Tensor, nn

from ftbench.errors import DivergedError


class EarlyStopping:
    """Keeps a copy of the best weights; stops after ``patience`` validations without a better."""

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._waited = 0
        self._best: dict[str, Tensor] | None = None
        self.best_loss = math.inf
        self.best_step = 0

    def should_stop(self, model: nn.Module, loss: float, step: int) -> bool:
        """Take in the validation ``loss`` after ``step`` steps; return whether to stop."""
        if loss < self.best_loss:
            self.best_loss, self.best_step, self._waited = loss, step, 0
            self._best = {name: value.clone() for name, value in model.state_dict().items()}
            return False
        self._waited += 1
        return self._waited >= self._patience

    def restore(self, model: nn.Module) -> None:
        """Put the best weights back; DivergedError where no validation loss was finite."""
        if self._best is None:
            raise DivergedError("no validation loss was finite; try a lower recipe.learning_rate")
        model.load_state_dict(self._best)
