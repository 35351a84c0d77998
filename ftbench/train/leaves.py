"""Parameters that nobody trains: leaves of the loss or the penalty that no optimizer holds."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from ftbench.backbone import Model
from ftbench.errors import FtbenchError
from ftbench.ops import QuadraticPenalty
from ftbench.strategy import Strategy

_SHOWN = 5  # leaves that a message names
_DEPTH = 5  # attributes and items between an owner and the leaf it is named after


class LeafCheck:
    """Refuses a loss or penalty that depends on trainable leaves outside the optimizer.

    A plain tensor that no attribute leads to may have been made for one step, to differentiate by;
    it is refused where the next look meets it again. :attr:`wants_another_look` says that there is
    one. What the steps between two looks depend on shows in the gradients that they left: see
    :meth:`refuse_missed`.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, model: Model, strategy: Strategy, loss: Any
    ) -> None:
        self._trained = {p for group in optimizer.param_groups for p in group["params"]}
        self._model, self._strategy = model, strategy
        self._task = getattr(loss, "__self__", None)  # a task's loss is its method
        self._suspects: list[Tensor] = []
        self._before = WeakIdKeyDictionary()  # what is dropped in training is not kept by this

    @property
    def wants_another_look(self) -> bool:
        """Whether the last look met a tensor that only a second one can tell from a passing one."""
        return bool(self._suspects)

    def look(self, *results: Tensor | QuadraticPenalty | None) -> None:
        """Raise FtbenchError naming the leaves of ``results`` that take gradients for nothing."""
        strays = [leaf for leaf in _leaves(results) if leaf not in self._trained]
        names = self._names(strays) if strays else {}
        seen_before, self._suspects = self._suspects, []
        found = []
        for leaf in strays:
            lasts = isinstance(leaf, nn.Parameter) or not leaf.is_leaf
            if id(leaf) in names or lasts or any(leaf is other for other in seen_before):
                name = names.get(id(leaf), f"a {type(leaf).__name__.lower()}")
                found.append(f"{name} of shape {tuple(leaf.shape)}")
            elif not seen_before:  # a second look decides; a third would follow for ever
                self._suspects.append(leaf)
        self._refuse(found)

    def note_gradients(self) -> None:
        """Note the leaves outside the optimizer as they are before the first step."""
        for leaf, _ in self._outside():
            self._before[leaf] = (_norm(leaf), _gradient(leaf))

    def refuse_missed(self) -> None:
        """Raise FtbenchError naming the leaves that took a gradient in training and never moved.

        Nothing but the optimizer clears gradients, so one look after the last step will do. What
        did move has an optimizer of its own. A tensor that is new and no parameter may have been
        made to differentiate by.
        """
        found = []
        for leaf, name in self._outside():
            norm, gradient = self._before.get(leaf, (None, None))
            if _gradient(leaf) in (None, gradient):
                continue
            untouched = isinstance(leaf, nn.Parameter) and leaf._version == 0
            if untouched if norm is None else norm == _norm(leaf):
                found.append(f"{name} of shape {tuple(leaf.shape)}")
        self._refuse(found)

    def _outside(self) -> Iterator[tuple[Tensor, str]]:
        """Yield the trainable leaves outside the optimizer that attributes lead to, and names."""
        seen = set(self._trained)
        for path, tensor in self._reachable():
            if tensor.is_leaf and tensor.requires_grad and tensor not in seen:
                seen.add(tensor)
                yield tensor, path

    def _refuse(self, found: list[str]) -> None:
        if found:
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise FtbenchError(
                f"strategy '{self._strategy.name}': no optimizer moves "
                f"{', '.join(found[:_SHOWN])}{more}, which loss or penalty depend on; register "
                "on model.head or a stage in prepare() what is to train, and switch off "
                "requires_grad of what is not"
            )

    def _names(self, leaves: Iterable[Tensor]) -> dict[int, str]:
        wanted = {id(leaf) for leaf in leaves}
        names: dict[int, str] = {}
        for path, tensor in self._reachable():
            if id(tensor) in wanted:
                names.setdefault(id(tensor), path)
        return names

    def _reachable(self) -> Iterator[tuple[str, Tensor]]:
        owners = {"model": self._model, "self": self._strategy, "task": self._task}
        for owner, root in owners.items():
            yield from _tensors_in(root, owner)


def _norm(leaf: Tensor) -> float:
    """Return a number that changes where a value does; versions miss what fused steps move."""
    value = leaf.detach().abs()
    return float(torch.linalg.vector_norm(value, dtype=torch.float64))


def _gradient(leaf: Tensor) -> tuple[int, int] | None:
    """Return what tells a gradient from another, or from the same after something was added."""
    return None if leaf.grad is None else (id(leaf.grad), leaf.grad._version)


def _leaves(results: Iterable[Tensor | QuadraticPenalty | None]) -> list[Tensor]:
    """Return, each once, what takes a gradient when all of ``results`` are differentiated."""
    found: dict[Tensor, None] = {}
    queue: list[Any] = []
    for result in results:
        if isinstance(result, QuadraticPenalty):
            # What it pulls on need not be a leaf: no optimizer moves an expression either.
            found.update(dict.fromkeys(p for p in result.parameters if p.requires_grad))
        elif result is not None and result.grad_fn is not None:
            queue.append(result.grad_fn)
        elif result is not None and result.requires_grad:
            found[result] = None
    seen = set(queue)
    while queue:
        node = queue.pop()
        if node.name() == "torch::autograd::AccumulateGrad":
            found[node.variable] = None
        following = [n for n, _ in node.next_functions if n is not None and n not in seen]
        seen.update(following)
        queue += following
    return list(found)


_CLOSED = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType, str, bytes)


def _tensors_in(root: object, owner: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that attributes and items lead to, the nearest first, with their paths."""
    seen: set[int] = set()
    queue: deque[tuple[str, Any, int]] = deque([(owner, root, 0)])
    for cls in type(root).__mro__[:-1]:  # what is shared by all instances, but object's own
        queue.extend((f"{owner}.{name}", item, 1) for name, item in vars(cls).items())
    while queue:
        path, value, depth = queue.popleft()
        if id(value) in seen or isinstance(value, _CLOSED):
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            yield path, value
        elif depth <= _DEPTH or isinstance(value, nn.Module):
            queue.extend((f"{path}{step}", item, depth + 1) for step, item in _contents(value))


def _contents(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        yield from ((f"[{key!r}]", item) for key, item in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    elif isinstance(value, nn.Module):
        tables = (value._parameters, value._buffers, value._modules, vars(value))
        # An nn.Module's own bookkeeping leads to the same again, by longer names.
        known = vars(nn.Module()).keys()
        for table in tables:
            yield from ((f".{name}", item) for name, item in table.items() if name not in known)
    else:
        yield from ((f".{name}", item) for name, item in getattr(value, "__dict__", {}).items())
