"""The loss of a task, each answer checked."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree

from ftbench.answers import refusal
from ftbench.errors import FtbenchError
from ftbench.ops import MixPlan


class Loss(Protocol):
    """The loss of a task: see :meth:`ftbench.task.Task.loss`."""

    def __call__(
        self, outputs: Any, targets: Any, *, plan: MixPlan | None = None, smoothing: float = 0.0
    ) -> Tensor:
        """Return the 0-dim mean loss."""


class CheckedLoss:
    """A loss that raises FtbenchError where it is no 0-dim tensor, or loses the gradient."""

    def __init__(self, loss: Loss) -> None:
        self._loss = loss
        task = getattr(getattr(loss, "__self__", None), "name", None)  # a task's is its method
        self._name = f"task '{task}': loss()" if task else "loss()"

    def __call__(self, outputs: Any, targets: Any, **options: Any) -> Tensor:
        """Return the 0-dim mean loss."""
        value: object = self._loss(outputs, targets, **options)
        if not isinstance(value, Tensor) or value.dim():
            raise refusal(value, f"{self._name} returned", "a 0-dim tensor")
        lost = torch.is_grad_enabled() and not value.requires_grad
        if lost and any(_takes_gradient(leaf) for leaf in _pytree.tree_leaves(outputs)):
            raise FtbenchError(
                f"{self._name} returned a tensor without a gradient; compute it from the outputs "
                "without detach(), item() or no_grad()"
            )
        return value


def _takes_gradient(value: object) -> bool:
    return isinstance(value, Tensor) and value.requires_grad
