"""Whether modules, and random generators, are as they were: what can be told, and how cheaply."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def structure(stage: nn.Module) -> list[tuple[nn.Module, type, dict[str, Any]]]:
    """Return what a stage consists of, values apart: modules, hooks, attributes, which tensors."""
    return [
        (module, type(module), {n: _shallow(v) for n, v in vars(module).items() if n != "training"})
        for module in stage.modules()
    ]


def _shallow(value: Any) -> Any:
    if isinstance(value, Mapping):
        return [(key, id(item)) for key, item in value.items()]
    plain = value is None or isinstance(value, str | bytes | bool | int | float | complex)
    if plain or (isinstance(value, tuple) and all(isinstance(v, int | float | str) for v in value)):
        return value
    return id(value)


def tensors_of(stage: nn.Module) -> Iterator[Tensor]:
    """Yield a stage's parameters, its buffers, and tensors that are attributes of its modules."""
    yield from stage.parameters()
    yield from stage.buffers()
    for module in stage.modules():
        yield from (v for v in vars(module).values() if isinstance(v, Tensor))


def version(tensors: Sequence[Tensor]) -> int:
    """Return a number that changes where one is written to: but by .data or a fused optimizer."""
    return sum([tensor._version for tensor in tensors])


@torch.no_grad()
def sums(stage: nn.Module) -> tuple[int, ...]:
    """Return two sums of the bits of each tensor, one of them by place: other values have others.

    They are taken in whole numbers that wrap around, on the tensor's device.
    """
    found: list[Tensor] = []
    for tensor in tensors_of(stage):
        bits = _bits(tensor).to(torch.int64)
        places = torch.arange(1, len(bits) + 1, device=bits.device)
        found += [bits.sum(), (bits * places).sum()]
    if not found:
        return ()
    return tuple(torch.stack([value.cpu() for value in found]).tolist())


_WHOLE_NUMBERS: dict[int, torch.dtype] = {
    1: torch.uint8,
    2: torch.int16,
    4: torch.int32,
    8: torch.int64,
}


def _bits(tensor: Tensor) -> Tensor:
    flat = tensor.detach().contiguous()
    flat = (torch.view_as_real(flat) if flat.is_complex() else flat).view(-1)
    return flat.view(dtype=_WHOLE_NUMBERS[flat.element_size()])


def draws(device: str) -> tuple[Any, ...]:
    """Return where the global generators of torch, NumPy and Python stand, to be compared."""
    state: Any = np.random.get_state()
    _, key, *place = state
    found = [torch.get_rng_state()]
    if device != "cpu":
        found.append(torch.cuda.get_rng_state(device))
    torchs = tuple(bytes(each.numpy()) for each in found)
    return torchs, bytes(key), tuple(place), random.getstate()
