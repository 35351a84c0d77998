"""Losses of all steps, looked at now and then."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ftbench.errors import DivergedError, FtbenchError


@dataclass(frozen=True)
class StepValues:
    """What a step's first backward pass came to, detached."""

    loss: Tensor  # the task's
    rest: Tensor | None = None  # what the strategy's objective adds to it
    penalty: Tensor | None = None


class History:
    """Losses, objectives and penalties of all steps.

    They are kept on the device, so that steps need not wait for it.
    """

    def __init__(self, steps: int, device: torch.device, strategy: str) -> None:
        self._values = torch.zeros(3, steps, device=device)
        self._seen = torch.zeros(steps, dtype=torch.bool)
        self._names = (
            "loss",
            f"penalty of '{strategy}'",
            f"objective of '{strategy}', the loss apart,",
        )

    def __setitem__(self, step: int, values: StepValues) -> None:
        """Take in what a step came to."""
        self._values[0, step] = values.loss
        if values.penalty is not None:
            self._values[1, step] = values.penalty
        if values.rest is not None:
            self._values[2, step] = values.rest
        self._seen[step] = True

    def check(self) -> None:
        """Raise DivergedError for the first value that is not finite.

        FtbenchError for a penalty or objective that was not finite to begin with.
        """
        bad = ~self._values.isfinite()
        if not bool(bad.any()):
            return
        step = int(bad.any(dim=0).nonzero()[0])
        row = int(bad[:, step].nonzero()[0])
        where = f"the {self._names[row]} is {float(self._values[row, step])} at step {step + 1}"
        if row and step == 0:
            # No weight has moved: nothing has diverged, the strategy itself is wrong.
            raise FtbenchError(f"{where}, before any weight has moved")
        raise DivergedError(f"{where}; try a lower recipe.learning_rate or recipe.gradient_clip")

    def last_loss(self) -> float | None:
        """Return the loss of the last step that trained."""
        seen = self._seen.nonzero()
        return float(self._values[0, int(seen[-1])]) if len(seen) else None
