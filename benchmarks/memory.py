"""The memory that all contenders of a case work in.

Where the pages of a buffer lie can change how fast it is copied by half, whatever the code, so on a
CPU a copy, ours and the peers are given the same pages. What a contender allocates besides is its
own affair.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.cases import mix_cases, penalty_cases

_ALIGNMENT = 64  # as torch allocates
_ARRAYS = 4


def place(tensor: Tensor, array: int) -> Tensor:
    """Return a copy of ``tensor``, its layout kept, at the start of array 0 to 3."""
    (placed,) = place_all([tensor], array)
    return placed


def place_all(tensors: Iterable[Tensor], array: int) -> list[Tensor]:
    """Return copies of ``tensors``, their layouts kept, one after the other in array 0 to 3.

    Each has a storage of its own: to torch they are as unrelated as they look.
    """
    start, placed = 0, []
    for tensor in tensors:
        storage = _storage(tensor, array, start)
        placed.append(storage.as_strided(tensor.shape, tensor.stride()).copy_(tensor))
        start += math.ceil(tensor.nbytes / _ALIGNMENT) * _ALIGNMENT
    return placed


def _storage(tensor: Tensor, array: int, start: int) -> Tensor:
    """Return bytes from ``start`` on as numbers like those of the dense ``tensor``."""
    if tensor.device.type != "cpu":
        return torch.empty(tensor.numel(), dtype=tensor.dtype, device=tensor.device)
    part = _arrays()[array][start : start + tensor.nbytes]
    return torch.from_numpy(part).view(tensor.dtype)


@functools.cache
def _arrays() -> Sequence[np.ndarray]:
    cases = (*mix_cases("cpu", quick=False), *penalty_cases("cpu", quick=False))
    tensors_of_a_model = 1000  # and more than any case's
    size = 4 * max(case.values for case in cases) + tensors_of_a_model * _ALIGNMENT
    arrays = []
    for _ in range(_ARRAYS):
        memory = np.zeros(size + _ALIGNMENT, dtype=np.uint8)
        start = -memory.ctypes.data % _ALIGNMENT
        arrays.append(memory[start : start + size])
    return arrays
