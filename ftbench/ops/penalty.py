"""Quadratic penalties: L2-SP, its head term, EWC, and any per-parameter mixture of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class QuadraticPenalty:
    """``½ Σ_i s_i Σ (θ_i − a_i)²`` over parameters θ_i.

    ``anchors[i]`` is a tensor of the parameter's shape, or None for zero; ``strength[i]`` is a
    number of at least 0, or a tensor of the parameter's shape (EWC's λ·F). Anchors and strengths
    are taken as they are, not copied. TypeError and ValueError name the element that does not fit.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        anchors: Sequence[Tensor | None],
        strength: Sequence[float | Tensor],
    ) -> None:
        if not len(parameters) == len(anchors) == len(strength):
            raise ValueError(
                f"parameters, anchors and strength have {len(parameters)}, {len(anchors)} and "
                f"{len(strength)} elements; expected as many of each"
            )
        for index, (parameter, anchor, factor) in enumerate(
            zip(parameters, anchors, strength, strict=True)
        ):
            if anchor is not None:
                _check_tensor(f"anchors[{index}]", anchor, parameter)
            _check_strength(f"strength[{index}]", factor, parameter)
        self.parameters = tuple(parameters)
        self.anchors = tuple(anchors)
        self.strength = tuple(strength)

    def value(self) -> Tensor:
        """Return the penalty as a 0-dim float32 tensor, differentiable in the parameters."""
        total = self._zero()
        for index, parameter in enumerate(self.parameters):
            gap = self._gap(index, parameter)
            total = total + (self.strength[index] * gap.square()).sum(dtype=torch.float64)
        return (0.5 * total).float()

    @torch.no_grad()
    def add_gradient_(self, scale: float = 1.0) -> Tensor:
        """Add ``scale · s_i (θ_i − a_i)`` to each ``.grad``; return the unscaled value.

        The value is a 0-dim float32 tensor on the parameters' device, without a synchronisation.
        Where ``.grad`` is None it is made; a parameter that does not require a gradient is frozen
        and gets none, as with a backward pass through :meth:`value`.
        """
        total = self._zero()
        for index, parameter in enumerate(self.parameters):
            gap = self._gap(index, parameter)
            pull = self.strength[index] * gap
            total += (pull * gap).sum(dtype=torch.float64)
            if not parameter.requires_grad:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.add_(pull, alpha=scale)
        return (0.5 * total).float()

    def _gap(self, index: int, parameter: Tensor) -> Tensor:
        anchor = self.anchors[index]
        gap = parameter if anchor is None else parameter - anchor
        # float32 at least: squares of small float16 numbers vanish, of large ones overflow.
        return gap.to(torch.promote_types(gap.dtype, torch.float32))

    def _zero(self) -> Tensor:
        device = self.parameters[0].device if self.parameters else None
        return torch.zeros((), dtype=torch.float64, device=device)


def _check_strength(name: str, value: float | Tensor, parameter: Tensor) -> None:
    if isinstance(value, Tensor):
        _check_tensor(name, value, parameter)
    elif not isinstance(value, int | float):
        raise TypeError(f"{name} is {value!r}, expected a number or a tensor")
    elif not 0 <= value < float("inf"):
        raise ValueError(f"{name} is {value}, expected a finite number of at least 0")


def _check_tensor(name: str, value: Tensor, parameter: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is {value!r}, expected a tensor or None")
    if value.shape != parameter.shape:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}, expected {tuple(parameter.shape)}"
        )
    if value.device != parameter.device:
        raise ValueError(f"{name} is on {value.device}, its parameter on {parameter.device}")
    if not value.is_floating_point():
        raise TypeError(f"{name} has dtype {value.dtype}, expected a floating-point one")
