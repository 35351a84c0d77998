"""Running statistics: which modules move their buffers in a forward pass, and a way back."""

from __future__ import annotations

import contextlib
import functools
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree

from ftbench.backbone import NORMS, Model
from ftbench.train.freezing import freeze_statistics


class Buffers:
    """The buffers of some modules as they are now: what moves later, and how to put it back."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._kept = {module: _copies(module._buffers) for module in modules}

    def moved(self) -> set[nn.Module]:
        """Return the modules whose own buffers have other values, or other names, than then."""
        return {module for module, kept in self._kept.items() if any(_moves(module, kept))}

    def moved_statistics(self) -> set[nn.Module]:
        """Return those of which more has moved than counters, which hold whole numbers."""
        return {
            module
            for module, kept in self._kept.items()
            if not all(_is_counter(tensor) for pair in _moves(module, kept) for tensor in pair)
        }

    def restore(self) -> None:
        """Put values and tensors back, so that whoever holds one of the tensors sees it too."""
        for module, kept in self._kept.items():
            for name in set(module._buffers.keys()) - kept.keys():
                del module._buffers[name]
            for name, (tensor, value) in kept.items():
                restored = _restored(tensor, value)
                if name not in module._buffers or module._buffers[name] is not restored:
                    module._buffers[name] = restored


class Statistics:
    """What may be statistics of some modules: their buffers, and tensors that are attributes.

    Tensors that a pass makes anew are none: they take a gradient, or come from inference mode.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        modules = list(modules)
        self._buffers = Buffers(modules)
        self._attributes = {
            module: {
                name: None if _is_recomputed(tensor) else tensor.clone()
                for name, tensor in _attributes(module).items()
            }
            for module in modules
        }

    def moved(self) -> set[nn.Module]:
        """Return the modules of which one has another value than then, or is new."""
        attributes = self._attributes.items()
        return self._buffers.moved() | {m for m, kept in attributes if _attribute_moved(m, kept)}


@torch.no_grad()
def moving_modules(model: Model, inputs: Any) -> frozenset[nn.Module]:
    """Return the backbone's modules whose own statistics a forward pass in train mode moves.

    Statistics are buffers of other than whole numbers: holding a module for a counter's sake would
    switch off what else it does in train mode. Torch's norms are not among them, nor asked: they
    are known. The pass leaves no trace on the
    model; generators are the caller's to isolate.
    """
    modules = list(model.stages.modules())
    if not any(module._buffers and not isinstance(module, NORMS) for module in modules):
        return frozenset()
    buffers = Buffers(modules)
    with untouched(modules):
        for module in modules:
            # A strategy's hooks take what passes for a step's. Pre-hooks stay: they make weights.
            vars(module)["_forward_hooks"] = OrderedDict()
        model.stages.train()
        freeze_statistics(model.stages)
        # What raises here raises again, for the user to read, in the step that trains it.
        # With gradients on, as there: a module may heed that as well.
        with contextlib.suppress(Exception), torch.enable_grad():
            model.features(_pytree.tree_map_only(Tensor, torch.clone, inputs))
        return frozenset(buffers.moved_statistics())


@contextlib.contextmanager
def untouched(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Put modules back after the block: buffers, attributes, generators, training flags, hooks."""
    modules = list(modules)
    buffers = Buffers(modules)
    kept = {module: dict(vars(module)) for module in modules}
    tensors = {
        module: _copies({n: v for n, v in values.items() if isinstance(v, Tensor)})
        for module, values in kept.items()
    }
    draws = [_draws(value) for values in kept.values() for value in values.values()]
    try:
        yield
    finally:
        for module, values in kept.items():
            vars(module).clear()
            vars(module).update(values)
            for name, (tensor, value) in tensors[module].items():
                vars(module)[name] = _restored(tensor, value)
        for put_back in draws:
            put_back()
        buffers.restore()


def _draws(value: object) -> Callable[[], object]:
    """Return what puts a generator, which a module has of its own, back to where it is now."""
    if isinstance(value, torch.Generator):
        return functools.partial(value.set_state, value.get_state())
    if isinstance(value, random.Random):
        return functools.partial(value.setstate, value.getstate())
    if isinstance(value, np.random.Generator):
        return functools.partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    return lambda: None


_Copies = dict[str, tuple[Tensor | None, Tensor | None]]


def _copies(tensors: Mapping[str, Tensor | None]) -> _Copies:
    return {
        name: (tensor, None if tensor is None else tensor.detach().clone())
        for name, tensor in tensors.items()
    }


def _moves(module: nn.Module, kept: _Copies) -> Iterator[tuple[Tensor | None, Tensor | None]]:
    """Yield, as it was and as it is, each buffer that has another value or name than then."""
    for name in kept.keys() | module._buffers.keys():
        then, now = kept.get(name, (None, None))[1], module._buffers.get(name)
        if not _same(now, then):
            yield then, now


def _is_counter(tensor: Tensor | None) -> bool:
    return tensor is None or not (tensor.is_floating_point() or tensor.is_complex())


def _attributes(module: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in vars(module).items() if isinstance(value, Tensor)}


def _attribute_moved(module: nn.Module, kept: Mapping[str, Tensor | None]) -> bool:
    return any(
        not (_is_recomputed(tensor) or _same(tensor, kept.get(name)))
        for name, tensor in _attributes(module).items()
        if name not in kept or kept[name] is not None
    )


def _is_recomputed(tensor: Tensor) -> bool:
    """Return whether a pass makes it anew, as torch's old weight norms make their weights."""
    return tensor.requires_grad or tensor.is_inference()


def _same(now: Tensor | None, then: Tensor | None) -> bool:
    if now is None or then is None:
        return now is then
    if (now.shape, now.dtype) != (then.shape, then.dtype):
        return False
    # NaN stays NaN, which equal() calls a change.
    return torch.equal(now, then) or bool(((now == then) | (now.isnan() & then.isnan())).all())


@torch.no_grad()
def _restored(tensor: Tensor | None, value: Tensor | None) -> Tensor | None:
    """Return the tensor with its former value, written back in place where that can be."""
    if tensor is None or value is None or _same(tensor, value):
        return tensor
    if tensor.is_inference() or tensor.shape != value.shape:
        return value
    return tensor.copy_(value)
