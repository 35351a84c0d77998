"""The peers of ``QuadraticPenalty.add_gradient_``: value returned, gradient added to ``.grad``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.cases import FLOOR, PenaltyCase
from ftbench.ops import QuadraticPenalty

_STRENGTH = 0.01  # of L2-SP

Function = Callable[[], Tensor]


@dataclass(frozen=True)
class Model:
    """Parameters with gradients, their anchors, and numbers or, for EWC, tensors as strengths."""

    parameters: list[Tensor]
    anchors: list[Tensor]
    strengths: Sequence[float | Tensor]

    @property
    def gradients(self) -> list[Tensor]:
        """The parameters' gradients, which all exist."""
        return [gradient for p in self.parameters if (gradient := p.grad) is not None]


def draw_model(case: PenaltyCase) -> Model:
    """Return random parameters of the case's shapes, with gradients of zero."""
    torch.manual_seed(0)
    parameters = [
        (0.02 * torch.randn(shape, device=case.device)).requires_grad_() for shape in case.shapes
    ]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    anchors = [p.detach() + 0.01 * torch.randn_like(p) for p in parameters]
    if case.fisher:
        return Model(parameters, anchors, [torch.rand_like(p) for p in parameters])
    return Model(parameters, anchors, [_STRENGTH] * len(parameters))


def ours(model: Model, variant: str = "") -> Function:
    """Return ftbench's own."""
    penalty = QuadraticPenalty(model.parameters, model.anchors, model.strengths)
    return penalty.add_gradient_


def autograd_loop(model: Model, variant: str = "") -> Function:
    """Return the loop that papers' code writes, its gradient through autograd."""
    return _with_backward(_loop_value, model)


def compiled_loop(model: Model, variant: str = "") -> Function:
    """Return the same loop under torch.compile."""
    # Another case's compilation counts against the same limit of recompilations.
    torch._dynamo.reset()
    return _with_backward(torch.compile(_loop_value, dynamic=False), model)


def foreach(model: Model, variant: str) -> Function:
    """Return the fewest ``torch._foreach`` calls, with new or kept buffers for the gaps.

    EWC takes √F, made beforehand: ``½ Σ F (θ − a)²`` is half the squared norm of ``√F (θ − a)``.
    """
    parameters, anchors, gradients = model.parameters, model.anchors, model.gradients
    strengths = model.strengths
    roots = [s.sqrt() for s in strengths if isinstance(s, Tensor)]
    kept = [torch.zeros_like(a) for a in anchors] if variant == "kept buffers" else None

    @torch.no_grad()
    def add_gradient() -> Tensor:
        if kept is None:
            gaps = list(torch._foreach_sub(parameters, anchors))
        else:
            gaps = kept
            torch._foreach_copy_(gaps, parameters)
            torch._foreach_sub_(gaps, anchors)
        if roots:
            torch._foreach_mul_(gaps, roots)
        norms = torch._foreach_norm(gaps)
        if roots:
            torch._foreach_addcmul_(gradients, roots, gaps)
            return 0.5 * torch.stack(norms).square().sum()
        torch._foreach_add_(gradients, gaps, alpha=_STRENGTH)
        return 0.5 * _STRENGTH * torch.stack(norms).square().sum()

    return add_gradient


def scratch_loop(model: Model, variant: str = "") -> Function:
    """Return a loop without autograd whose gaps share one buffer, so that they stay in cache."""
    largest = max(p.numel() for p in model.parameters)
    buffers = torch.zeros(2, largest, device=model.parameters[0].device)
    gradients = model.gradients

    @torch.no_grad()
    def add_gradient() -> Tensor:
        terms = []
        for parameter, anchor, strength, gradient in zip(
            model.parameters, model.anchors, model.strengths, gradients, strict=True
        ):
            gap, pull = (buffer[: parameter.numel()] for buffer in buffers)
            torch.sub(parameter.view(-1), anchor.view(-1), out=gap)
            if isinstance(strength, Tensor):
                torch.mul(gap, strength.view(-1), out=pull)
                gradient.view(-1).add_(pull)
                terms.append(torch.dot(pull, gap))
            else:
                gradient.view(-1).add_(gap, alpha=strength)
                terms.append(torch.dot(gap, gap) * strength)
        return 0.5 * torch.stack(terms).sum()

    return add_gradient


def compiled_in_place_loop(model: Model, variant: str = "") -> Function:
    """Return a loop without autograd under torch.compile, which may fuse all of it."""
    torch._dynamo.reset()
    gradients = model.gradients
    compiled = torch.compile(_in_place_loop, dynamic=False)

    @torch.no_grad()
    def add_gradient() -> Tensor:
        return compiled(model.parameters, model.anchors, model.strengths, gradients)

    return add_gradient


def floor(model: Model, variant: str) -> Function:
    """Return a kernel of torch's that moves a penalty's bytes, without the sum.

    It works on the model's tensors or, to be free of calls for small ones, on one of their size.
    """
    fisher = [s for s in model.strengths if isinstance(s, Tensor)]
    lists = [model.parameters, model.anchors, model.gradients, *([fisher] if fisher else [])]
    if variant == "as one tensor":
        lists = [[torch.cat([t.detach().flatten() for t in tensors])] for tensors in lists]
    value = torch.zeros(())

    @torch.no_grad()
    def move() -> Tensor:
        for parameter, anchor, gradient, *weight in zip(*lists, strict=True):
            if weight:
                torch.lerp(parameter, anchor, weight[0], out=gradient)
            else:
                gradient.addcmul_(parameter, anchor, value=1e-9)
        return value

    return move


BUILDERS: Mapping[str, Callable[[Model, str], Function]] = {
    "ours": ours,
    FLOOR: floor,
    "loop": autograd_loop,
    "foreach": foreach,
    "compiled": compiled_loop,
    "scratch": scratch_loop,
    "compiled-in-place": compiled_in_place_loop,
}


def _loop_value(
    parameters: Sequence[Tensor], anchors: Sequence[Tensor], strengths: Sequence[float | Tensor]
) -> Tensor:
    value = parameters[0].new_zeros(())
    for parameter, anchor, strength in zip(parameters, anchors, strengths, strict=True):
        value = value + 0.5 * (strength * (parameter - anchor).square()).sum()
    return value


def _in_place_loop(
    parameters: Sequence[Tensor],
    anchors: Sequence[Tensor],
    strengths: Sequence[float | Tensor],
    gradients: Sequence[Tensor],
) -> Tensor:
    value = parameters[0].new_zeros(())
    for parameter, anchor, strength, gradient in zip(
        parameters, anchors, strengths, gradients, strict=True
    ):
        gap = parameter - anchor
        pull = strength * gap
        gradient.add_(pull)
        value = value + 0.5 * (pull * gap).sum()
    return value


def _with_backward(value_of: Callable[..., Tensor], model: Model) -> Function:
    def add_gradient() -> Tensor:
        value = value_of(model.parameters, model.anchors, model.strengths)
        value.backward()
        return value.detach()

    return add_gradient
