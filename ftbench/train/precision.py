"""Half precision in training: what runs in it, and the scaling that float16 needs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from ftbench.errors import DivergedError

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_FIRST_SCALE = 2.0**16
_GROW_EVERY = 2_000  # steps without an overflow before the scale doubles
_LEAST_SCALE = 2.0**-24  # float16's smallest number: what overflows here overflows at any scale


class Precision:
    """Runs forward passes in a recipe's precision; weights and their gradients stay float32.

    In float16 small gradients of activations would be 0: losses are scaled up before the backward
    pass, and gradients down after it. A step whose gradients overflow is left out and the scale
    halved; after 2,000 steps without one it doubles (Micikevicius et al. 2018, ICLR).
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self._dtype = DTYPES.get(name)
        self._device = device
        self._scale = _FIRST_SCALE if name == "float16" else None
        self._steps_since = 0
        self.skipped_steps = 0

    def forward(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context of a forward pass."""
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=self._dtype)

    def in_full(self, outputs: Any) -> Any:
        """Return outputs in float32: losses are sums of many small numbers."""
        if self._dtype is None:
            return outputs
        return _pytree.tree_map(_as_float32, outputs)

    def backward(self, objective: Tensor, parameters: Iterable[Tensor]) -> None:
        """Add the gradients of an objective; those in float16's scale come back in their own."""
        if self._scale is None:
            objective.backward()
            return
        before = [(p, p.grad) for p in parameters]
        for parameter, _ in before:
            parameter.grad = None
        (objective * self._scale).backward()
        for parameter, held in before:
            if parameter.grad is not None:
                parameter.grad.div_(self._scale)
                if held is not None:
                    parameter.grad.add_(held)
            else:
                parameter.grad = held

    def allows_step(self, parameters: Iterable[Tensor]) -> bool:
        """Return whether gradients are finite; where they are not the scale is halved.

        DivergedError where no scale is left.
        """
        if self._scale is None:
            return True
        gradients = [p.grad for p in parameters if p.grad is not None]
        if all(bool(g.isfinite().all()) for g in gradients):
            self._steps_since += 1
            if self._steps_since == _GROW_EVERY:
                self._scale, self._steps_since = self._scale * 2, 0
            return True
        if self._scale <= _LEAST_SCALE:
            raise DivergedError(
                "gradients in float16 are not finite at any scale of the loss; set "
                'recipe.precision to "bfloat16", or lower recipe.learning_rate'
            )
        self._scale, self._steps_since = self._scale / 2, 0
        self.skipped_steps += 1
        return False


def _as_float32(value: Any) -> Any:
    half = isinstance(value, Tensor) and value.dtype in DTYPES.values()
    return value.float() if half else value
