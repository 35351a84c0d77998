"""Random numbers keyed by (seed, purpose, step): no global state, the same on every device.

Each call derives a 128-bit key from its arguments and reads a Philox-4x64 stream (Salmon et al.
2011, "Parallel random numbers: as easy as 1, 2, 3"). Only the raw 64-bit words are used, whose
values NumPy guarantees, and never its distributions, whose streams may change between versions.
"""

from __future__ import annotations

import contextlib
import hashlib
import operator
import random
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Part = int | str


def _spelt(part: Part) -> str:
    # Integers of every kind, NumPy's too, name one stream; "1" names another than 1.
    return f"str:{part}" if isinstance(part, str) else f"int:{operator.index(part)}"


def _digest(purpose: tuple[Part, ...]) -> bytes:
    return hashlib.sha256("\x1f".join(_spelt(p) for p in purpose).encode()).digest()


def words(count: int, *purpose: Part) -> npt.NDArray[np.uint64]:
    """Return ``count`` raw 64-bit words of the stream that ``purpose`` names."""
    key = np.frombuffer(_digest(purpose)[:16], dtype="<u8")
    drawn: npt.NDArray[np.uint64] = np.random.Philox(key=key).random_raw(count)
    return drawn


def uniforms(count: int, *purpose: Part) -> npt.NDArray[np.float64]:
    """Return ``count`` float64 numbers in [0, 1), each with 53 random bits."""
    return (words(count, *purpose) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(count: int, *purpose: Part) -> npt.NDArray[np.int64]:
    """Return a uniformly random order of ``range(count)``."""
    return np.argsort(words(count, *purpose), kind="stable").astype(np.int64)


def torch_seed(*purpose: Part) -> int:
    """Return a 63-bit seed for a torch generator."""
    return int.from_bytes(_digest(purpose)[16:24], "little") >> 1


def seed_global(*purpose: Part) -> None:
    """Point the global generators of torch, NumPy and Python at the stream of ``purpose``.

    For code that draws from nowhere else: Dropout, initialisation, augmentation, plugins.
    """
    import torch

    seed = torch_seed(*purpose)
    # Not torch.manual_seed(): it formats a stack for each kind of device that is not in use, half a
    # millisecond in each step.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    random.seed(seed)


@contextlib.contextmanager
def isolated(*purpose: Part) -> Iterator[None]:
    """Seed the global generators of torch, NumPy and Python inside the block; restore them after.

    Code that draws from global state thereby becomes a function of ``purpose``, and leaves no
    trace on the code that runs after it.
    """
    import torch

    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=devices):
        seed_global(*purpose)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
