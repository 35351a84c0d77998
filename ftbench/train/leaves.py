"""Parameters that nobody trains: leaves of the loss or the penalty that no optimizer holds."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

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
    one.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, model: Model, strategy: Strategy, loss: Any
    ) -> None:
        self._trained = {p for group in optimizer.param_groups for p in group["params"]}
        self._model, self._strategy = model, strategy
        self._task = getattr(loss, "__self__", None)  # a task's loss is its method
        self._suspects: list[Tensor] = []

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
        owners = {"model": self._model, "self": self._strategy, "task": self._task}
        for owner, root in owners.items():
            for path, tensor in _tensors_in(root, owner):
                if id(tensor) in wanted:
                    names.setdefault(id(tensor), path)
        return names


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
