"""Quadratic penalties: L2-SP, its head term, EWC, and any per-parameter mixture of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any, TypeVar

import torch
from torch import Tensor

from ftbench.ops import reference, serving

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_T = TypeVar("_T")


class QuadraticPenalty:
    """``½ Σ_i s_i Σ (θ_i − a_i)²`` over parameters θ_i.

    ``anchors[i]`` is a tensor of the parameter's shape, or None for zero; ``strength[i]`` is a
    number of at least 0, or a tensor of the parameter's shape (EWC's λ·F). Anchors and strengths
    are taken as they are, not copied, and should not be another module's parameters; what a
    strength tensor holds is not looked at, which would wait for a GPU. TypeError and ValueError
    name the element that does not fit.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        anchors: Iterable[Tensor | None],
        strength: Iterable[float | Tensor],
    ) -> None:
        parameters = _listed("parameters", parameters)
        anchors, strength = _listed("anchors", anchors), _listed("strength", strength)
        if not len(parameters) == len(anchors) == len(strength):
            raise ValueError(
                f"parameters, anchors and strength have {len(parameters)}, {len(anchors)} and "
                f"{len(strength)} elements; expected as many of each"
            )
        for index, (parameter, anchor, factor) in enumerate(
            zip(parameters, anchors, strength, strict=True)
        ):
            _check_dtype(f"parameters[{index}]", parameter)
            if anchor is not None:
                _check_anchor(f"anchors[{index}]", anchor, parameter)
            _check_strength(f"strength[{index}]", factor, parameter)
        self._parameters = tuple(parameters)
        self._anchors = tuple(anchors)
        self._strength = tuple(strength)
        self._weights = [s if isinstance(s, Tensor) else None for s in strength]
        self._numbers = [0.0 if isinstance(s, Tensor) else float(s) for s in strength]
        self._bound: Any = None  # anchors and strengths in C++, once that has been called

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The parameters θ_i."""
        return self._parameters

    @property
    def anchors(self) -> tuple[Tensor | None, ...]:
        """The anchors a_i, None for zero."""
        return self._anchors

    @property
    def strength(self) -> tuple[float | Tensor, ...]:
        """The strengths s_i."""
        return self._strength

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: what C++ holds is of its own anchors."""
        return {**self.__dict__, "_bound": None}

    def value(self) -> Tensor:
        """Return the penalty as a 0-dim tensor, differentiable in the parameters.

        float32, or float64 where every parameter is float64. The number is that of
        :meth:`add_gradient_`.
        """
        if not self.parameters:
            return torch.zeros(())
        total: Tensor = _Value.apply(self, *self.parameters)
        return total

    @torch.no_grad()
    def add_gradient_(self, scale: float = 1.0) -> Tensor:
        """Add ``scale · s_i (θ_i − a_i)`` to each ``.grad``; return the unscaled value.

        The value is a 0-dim tensor on the parameters' device, float32 (float64 where every
        parameter is), without a synchronisation. Where ``.grad`` is None it is made; a parameter
        that does not require a gradient is frozen and gets none, as with a backward pass through
        :meth:`value`.
        """
        if not self.parameters:
            return torch.zeros(())
        scale = _number("scale", scale)
        if not torch.compiler.is_compiling():
            found: Tensor | None = self._add_by_bound(scale)
            if found is not None:
                return found
        trained = [i for i, p in enumerate(self.parameters) if p.requires_grad]
        gradients = [_gradient_of(self.parameters[i]) for i in trained]
        compiled = self._operators()
        if compiled is None:
            return self._add_in_plain_torch(dict(zip(trained, gradients, strict=True)), scale)
        value: Tensor = compiled.add_quadratic_gradient_(
            self.parameters, self.anchors, self._weights, self._numbers, gradients, trained, scale
        )
        return value

    def _add_by_bound(self, scale: float) -> Tensor | None:
        """Add and return as ``add_gradient_`` does, or None where the operators do not serve."""
        if serving.operators(self.parameters[0].device) is None:
            return None
        if self._bound is None:
            self._bound = torch.classes.ftbench.QuadraticPenalty(
                list(self.anchors), self._weights, self._numbers
            )
        found: Tensor | None = self._bound.add_gradient_(self.parameters, scale)
        return found

    def _plain_value(self) -> Tensor:
        compiled = self._operators()
        if compiled is None:
            return self._add_in_plain_torch({}, 1.0)
        value: Tensor = compiled.quadratic_value(
            self.parameters, self.anchors, self._weights, self._numbers
        )
        return value

    def _operators(self) -> Any:
        """Return the compiled operators if they serve the parameters; None for plain torch."""
        first = self.parameters[0].device
        if any(parameter.device != first for parameter in self.parameters):
            return None  # a model in parts, on several devices
        return serving.operators(first)

    def _add_in_plain_torch(self, gradients: dict[int, Tensor], scale: float) -> Tensor:
        first = self.parameters[0].device
        total = torch.zeros((), dtype=torch.float64, device=first)
        for index, parameter in enumerate(self.parameters):
            pull, part = reference.quadratic_term(
                parameter, self.anchors[index], self.strength[index]
            )
            total += part.to(first)
            if index in gradients:
                gradients[index].add_(pull, alpha=scale)
        return (0.5 * total).to(self._value_dtype())

    def _value_dtype(self) -> torch.dtype:
        wide = all(parameter.dtype == torch.float64 for parameter in self.parameters)
        return torch.float64 if wide else torch.float32


class _Value(torch.autograd.Function):
    """The value of a penalty, whose gradient is its pulls."""

    @staticmethod
    def forward(ctx: Any, penalty: QuadraticPenalty, *parameters: Tensor) -> Tensor:
        ctx.penalty = penalty
        ctx.save_for_backward(*parameters)
        return penalty._plain_value()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # Plain torch, so that it can be differentiated again.
        penalty: QuadraticPenalty = ctx.penalty
        found: list[Tensor | None] = [None]
        for needed, parameter, anchor, strength in zip(
            ctx.needs_input_grad[1:],
            ctx.saved_tensors,
            penalty.anchors,
            penalty.strength,
            strict=True,
        ):
            if not needed:
                found.append(None)
                continue
            pull, _ = reference.quadratic_term(parameter, anchor, strength)
            found.append((gradients[0].to(pull) * pull).to(parameter.dtype))
        return tuple(found)


def _gradient_of(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _number(name: str, value: object) -> float:
    if not isinstance(value, Real):
        raise TypeError(f"{name} is {value!r}, expected a number")
    return float(value)


def _check_strength(name: str, value: float | Tensor, parameter: Tensor) -> None:
    if isinstance(value, Tensor):
        _check_tensor(name, value, parameter)
    elif not isinstance(value, int | float):
        raise TypeError(f"{name} is {value!r}, expected a number or a tensor")
    elif not 0 <= value < float("inf"):
        raise ValueError(f"{name} is {value}, expected a finite number of at least 0")


def _listed(name: str, values: Iterable[_T]) -> list[_T]:
    if isinstance(values, Mapping | Tensor) or not isinstance(values, Iterable):
        raise TypeError(
            f"{name} is of type {type(values).__name__}, expected one for each parameter"
        )
    return list(values)


def _check_anchor(name: str, value: Tensor, parameter: Tensor) -> None:
    _check_tensor(name, value, parameter)
    if value.numel() and value.is_set_to(parameter):
        raise ValueError(
            f"{name} is its parameter's own memory and would move with it, expected a copy: "
            "parameter.detach().clone()"
        )


def _check_tensor(name: str, value: Tensor, parameter: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is {value!r}, expected a tensor or None")
    if value.shape != parameter.shape:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}, expected {tuple(parameter.shape)}"
        )
    if value.device != parameter.device:
        raise ValueError(f"{name} is on {value.device}, its parameter on {parameter.device}")
    _check_dtype(name, value)


def _check_dtype(name: str, value: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is of type {type(value).__name__}, expected a tensor")
    if value.dtype not in _DTYPES:
        raise TypeError(
            f"{name} has dtype {value.dtype}, expected float32, float64, float16 or bfloat16"
        )
