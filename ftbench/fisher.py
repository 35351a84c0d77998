"""The diagonal Fisher information from per-sample gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree

from ftbench import rng
from ftbench.ops import accumulate_fisher_


def diagonal_fisher(
    model: nn.Module,
    inputs: Any,
    *,
    parameters: Sequence[str],
    labels: Any = None,
    seed: int = 0,
    batch_size: int = 25,
    loss: Callable[[Any, Any], Tensor] = F.cross_entropy,
    draw: Callable[[Any, Tensor], Any] | None = None,
) -> dict[str, Tensor]:
    """Return the mean over samples of the squared per-sample gradient of −log p(y | x).

    ``model`` maps ``inputs``, a tensor (N, ...) or a flat dict of such, to outputs, of which
    ``loss(outputs, labels)`` is −log p(y | x); cross-entropy of logits (N, K) unless given.
    ``parameters`` names those wanted, and the result holds a float32 tensor of each one's shape. A
    parameter that the model holds under several names may be asked for by any of them; its
    gradient is that of all its uses.

    Without ``labels`` they are drawn from the model's own prediction, by ``draw(outputs,
    uniforms)``: :func:`draw_classes` unless given. That gives the true Fisher (Kunstner et al.
    2019, "Limitations of the empirical Fisher approximation"); with ``labels`` (N, ...) it is the
    empirical one. ``batch_size`` only bounds the memory: squares are taken sample by sample, so
    the result is the same at any.

    The model is used in eval mode, so normalisation statistics neither move nor mix samples; its
    training flags come back as they were. ValueError where there are no inputs, or not as many
    labels.
    """
    rows = _row_count(inputs)
    if not rows:
        raise ValueError("inputs hold no sample; the Fisher is a mean over at least one")
    if labels is not None and _row_count(labels) != rows:
        raise ValueError(f"labels hold {_row_count(labels)} rows, expected {rows} as inputs do")
    drawn = _Drawn(model, draw or draw_classes, seed)
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        squares = _Squares(model, parameters, loss)
        for start in range(0, rows, batch_size):
            batch = _rows_of(inputs, start, batch_size)
            chosen = drawn(batch, start) if labels is None else _rows_of(labels, start, batch_size)
            squares.add(batch, chosen)
        return squares.mean(rows)
    finally:
        for module, training in was_training.items():
            module.training = training


def draw_classes(outputs: Tensor, uniforms: Tensor) -> Tensor:
    """Return a class (N,) for each row of logits (N, K), drawn by its number in [0, 1) (N,)."""
    # On the host: the cumulative sum has no deterministic form on a GPU.
    cumulative = outputs.double().softmax(dim=1).cpu().cumsum(dim=1)
    drawn = torch.searchsorted(cumulative, uniforms.unsqueeze(1)).squeeze(1)
    # The last cumulative sum may round to just below a draw, hence the clamp.
    return drawn.clamp_(max=cumulative.shape[1] - 1).to(outputs.device)


def _row_count(values: Any) -> int:
    return len(_pytree.tree_leaves(values)[0])


def _rows_of(values: Any, start: int, count: int) -> Any:
    return _pytree.tree_map(lambda tensor: tensor[start : start + count], values)


@dataclass(frozen=True)
class _Drawn:
    """Labels drawn from a model's prediction; sample i's draw depends on i alone."""

    model: nn.Module
    draw: Callable[[Any, Tensor], Any]
    seed: int

    def __call__(self, inputs: Any, first: int) -> Any:
        with torch.no_grad():
            outputs = self.model(inputs)
            count = first + _row_count(inputs)
            uniforms = rng.uniforms(count, self.seed, "fisher labels")[first:]
            return self.draw(outputs, torch.from_numpy(uniforms))


class _Squares:
    """The sum of squared per-sample gradients so far."""

    def __init__(
        self, model: nn.Module, parameters: Sequence[str], loss: Callable[[Any, Any], Tensor]
    ) -> None:
        values = {name: tensor.detach() for name, tensor in model.named_parameters()}
        # One name for each parameter: two for one would be two functions' arguments.
        first: dict[Tensor, str] = {value: name for name, value in model.named_parameters()}
        known = dict(model.named_parameters(remove_duplicate=False))
        places = [(place, first[parameter]) for place, parameter in _places(model, "_parameters")]
        buffers = dict(_places(model, "_buffers"))
        self._first_names = {name: first[known[name]] for name in parameters}
        self._wanted = {name: values[name] for name in self._first_names.values()}
        self._sums = {
            name: torch.zeros_like(tensor, dtype=torch.float32)
            for name, tensor in self._wanted.items()
        }

        def one(chosen: dict[str, Tensor], sample: Any, label: Any) -> Tensor:
            used = {**values, **chosen}
            # Every place by itself: torch's own tying leaves its argument behind in a module that
            # the model holds under two names.
            placed = {place: used[name] for place, name in places}
            row = _pytree.tree_map(lambda tensor: tensor.unsqueeze(0), (sample, label))
            outputs = torch.func.functional_call(
                model, (placed, buffers), (row[0],), tie_weights=False
            )
            return loss(outputs, row[1])

        self._per_sample = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0, 0))

    def add(self, inputs: Any, labels: Any) -> None:
        """Take in the gradients of some samples."""
        gradients = self._per_sample(self._wanted, inputs, labels)
        accumulate_fisher_(list(self._sums.values()), [gradients[name] for name in self._sums])

    def mean(self, rows: int) -> dict[str, Tensor]:
        """Return the mean over ``rows`` samples, by the names that were asked for."""
        return {name: self._sums[first] / rows for name, first in self._first_names.items()}


def _places(model: nn.Module, table: str) -> Iterator[tuple[str, Tensor]]:
    """Yield each place at which a module holds a tensor, by one name however many it has."""
    for name, module in model.named_modules():
        for own, tensor in getattr(module, table).items():
            if tensor is not None:
                yield f"{name}.{own}" if name else own, tensor
